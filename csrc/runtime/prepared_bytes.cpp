#include "runtime/prepared_bytes.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>
#include <tuple>

#include "graph/ops/linear.h"
#include "graph/passes/passes.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/gemm/packed_weight.h"

namespace sdcore {
namespace {

// A weight as the kernels' own packing leaves it, of so few outputs that this takes no time.
class Sample {
 public:
  Sample(Type type, const Shape& shape, DType dtype, const KernelContext& kernels,
         WeightForm form) {
    const int64_t row = element_count(shape) / shape[0], block = type_info(type).block_size;
    int64_t outputs = block / std::gcd(block, row);
    if (form == WeightForm::gated) {
      outputs = std::lcm(outputs, gated_multiple(dtype, kernels.isa, false));
    }
    Shape few = shape;
    few[0] = outputs;
    Tensor tensor{nullptr, type, few, nullptr};
    const auto zeros = std::make_shared<Buffer>(static_cast<size_t>(tensor.bytes()));
    if (zeros->size() > 0) std::memset(zeros->data(), 0, zeros->size());
    tensor.data = zeros->data();
    tensor.owner = zeros;
    packed_ = pack_matrix(tensor, dtype, kernels, form);
  }

  // Of that many outputs; `stored` are the bytes of the weight in its file.
  size_t bytes(int64_t outputs, size_t stored) const {
    if (packed_->source.data && !packed_->woven) return stored;
    int64_t panels = of_panels(*packed_, outputs);
    for (const PackedWeightPtr& phase : packed_->phases) panels += of_panels(*phase, outputs);
    return static_cast<size_t>(panels);
  }

 private:
  static int64_t of_panels(const PackedWeight& w, int64_t outputs) {
    if (w.panels.size() == 0 && !w.woven) return 0;
    const int64_t panels = (outputs + w.variant->panel - 1) / w.variant->panel;
    const auto norms = static_cast<int64_t>(w.norms.size() * sizeof(float)) / w.panel_count();
    return panels * (w.stored_panel_bytes() + norms);
  }

  PackedWeightPtr packed_;
};

class Counter {
 public:
  Counter(const Graph& graph, const WeightTypes& types, DType dtype, Isa isa, gpu::Device* gpu)
      : graph_(graph), types_(types), dtype_(dtype), kernels_{pool_, isa, gpu} {}

  size_t count() {
    for (const Node& node : graph_.nodes) {
      for (size_t i = 0; i < node.inputs.size(); ++i) add(node, i);
    }
    return bytes_;
  }

 private:
  void add(const Node& node, size_t input) {
    const ValueId id = node.inputs[input];
    if (id == kAbsent || graph_.value(id).kind != Value::Kind::weight) return;
    const WeightForm form = form_of(node);
    if (!seen_.emplace(id, form).second) return;
    const Value& value = graph_.value(id);
    const Op::Input& as = node.op->inputs[std::min(input, node.op->inputs.size() - 1)];
    const bool is_value = as.kind == Op::Input::value || as.kind == Op::Input::optional_value;
    if (input == 1 && (node.op == &op_linear || node.op == &op_conv2d)) {
      bytes_ += matrix(tensor_of(value), form);
    } else if (is_value || value.shape.size() == 1) {
      bytes_ += static_cast<size_t>(element_count(value.shape)) * sizeof(float);
    } else {
      bytes_ += table(tensor_of(value));
    }
  }

  static WeightForm form_of(const Node& node) {
    if (node.op == &op_linear) return linear_form(node.attrs, node.fused);
    return node.fused.upsampled ? WeightForm::upsampled : WeightForm::plain;
  }

  // With no memory behind it.
  Tensor tensor_of(const Value& value) const {
    const auto found = types_.find(value.name);
    return {nullptr, found == types_.end() ? type_of(dtype_) : found->second, value.shape, nullptr};
  }

  // As WeightStore::table has it.
  size_t table(const Tensor& tensor) const {
    if (!kernels_.device) return static_cast<size_t>(tensor.bytes());
    return static_cast<size_t>(tensor.elements() * dtype_size(dtype_));
  }

  size_t matrix(const Tensor& tensor, WeightForm form) {
    if (kernels_.device) return device_bytes(tensor, dtype_);
    const Shape row(tensor.shape.begin() + 1, tensor.shape.end());
    const auto key = std::tuple(tensor.type, row, form);
    auto found = samples_.find(key);
    if (found == samples_.end()) {
      found =
          samples_.emplace(key, Sample(tensor.type, tensor.shape, dtype_, kernels_, form)).first;
    }
    return found->second.bytes(tensor.shape[0], static_cast<size_t>(tensor.bytes()));
  }

  const Graph& graph_;
  const WeightTypes& types_;
  const DType dtype_;
  ThreadPool pool_{1};
  const KernelContext kernels_;
  std::set<std::pair<ValueId, WeightForm>> seen_;
  std::map<std::tuple<Type, Shape, WeightForm>, Sample> samples_;
  size_t bytes_ = 0;
};

}  // namespace

size_t prepared_bytes(const Graph& graph, const WeightTypes& types, DType dtype, Isa isa,
                      gpu::Device* gpu) {
  Graph folded = graph;
  if (!gpu && folds_upsample(dtype, isa)) fold_upsample(folded, {});
  return Counter(folded, types, dtype, isa, gpu).count();
}

size_t prepared_bytes(const Plan& plan, const WeightTypes& types, DType dtype, Isa isa,
                      gpu::Device* gpu) {
  return Counter(plan.graph, types, dtype, isa, gpu).count();
}

}  // namespace sdcore
