#include "runtime/weight_needs.h"

#include <algorithm>
#include <set>

#include "base/buffer.h"
#include "graph/ops/linear.h"

namespace sdcore {
namespace {

void add_matrix(WeightNeeds& needs, const Tensor& tensor, DType dtype, const gpu::Device& device) {
  const size_t bytes = device_bytes(tensor, dtype);
  needs.matrices += device.footprint(bytes);
  needs.largest = std::max(needs.largest, bytes);
}

}  // namespace

WeightNeeds weight_needs(const Plan& plan, const WeightStore& weights, DType dtype,
                         const KernelContext& kernels) {
  WeightNeeds needs;
  std::set<ValueId> seen;
  for (const Node& node : plan.graph.nodes) {
    const bool multiplies = node.op == &op_linear || node.op == &op_conv2d;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kAbsent || plan.graph.value(id).kind != Value::Kind::weight) continue;
      if (!seen.insert(id).second) continue;
      const Value& value = plan.graph.value(id);
      if (!multiplies || i != 1) {
        const auto bytes = static_cast<size_t>(element_count(value.shape)) * sizeof(float);
        needs.others += kernels.device->footprint(bytes);
        continue;
      }
      const WeightForm form =
          node.op == &op_linear ? linear_form(node.attrs, node.fused) : WeightForm::plain;
      if (weights.has_matrix(value.name, dtype, kernels, form)) continue;
      add_matrix(needs, weights.shaped(value.name, value.shape), dtype, *kernels.device);
    }
  }
  return needs;
}

size_t run_bytes(const Plan& plan) {
  // What is kept lies in the arena too while the network runs.
  auto bytes = static_cast<size_t>(plan.arena_bytes + 2 * plan.kept_bytes);
  const auto stage = [&](size_t id) {
    const View& v = plan.views[id];
    bytes += align_up(static_cast<size_t>(v.pixels() * v.c) * sizeof(float), 256);
  };
  for (size_t id = 0; id < plan.graph.values.size(); ++id) {
    if (plan.graph.values[id].kind == Value::Kind::input && plan.offsets[id] >= 0) stage(id);
  }
  for (const auto& [name, id] : plan.graph.outputs) stage(static_cast<size_t>(id));
  return bytes;
}

size_t room_on(const gpu::Device& device) {
  const size_t margin = device.total_bytes() / 64;
  return device.free_bytes() - std::min(device.free_bytes(), margin);
}

}  // namespace sdcore
