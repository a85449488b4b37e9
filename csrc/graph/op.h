// What an op is. Each is one file in ops/ that fills an Op, and one row in ops/ops.inc.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "graph/weights.h"

namespace sdcore {

// The type of a value once input sizes are known. Images are [n, h, w, c], tokens [n, t, c], a
// vector per image [n, c], token ids [n, t], a time step per image [n].
struct TensorType {
  Shape shape;
  DType dtype = DType::f32;
};

// The same sizes as kernels see them; `data` and strides are left empty.
View view_of(const TensorType& type);

// What one step of an executable is given when it runs.
struct Run {
  const View* views;  // by slot
  std::byte* arena;
  const KernelContext& kernels;
};
using Step = std::function<void(const Run&)>;

// What an op may ask while it turns a node into a step. A slot is the place of a value in
// Run::views.
class Lowering {
 public:
  Lowering(const Graph& graph, const Node& node, const std::vector<View>& views, DType dtype,
           int64_t workspace, WeightStore* weights, const KernelContext& kernels)
      : node_(node),
        graph_(graph),
        views_(views),
        dtype_(dtype),
        workspace_(workspace),
        weights_(weights),
        kernels_(kernels) {}

  const Attrs& attrs() const { return node_.attrs; }
  const Fused& fused() const { return node_.fused; }
  bool has(size_t input) const { return input < node_.inputs.size() && node_.inputs[input] >= 0; }

  int slot(size_t input) const { return node_.inputs[input]; }
  int output_slot() const { return node_.output; }
  int image_bias_slot() const { return node_.fused.image_bias; }
  int residual_slot() const { return node_.fused.residual; }

  // Sizes, strides and halo, with no memory behind them.
  const View& view(size_t input) const { return views_[static_cast<size_t>(slot(input))]; }
  const View& output() const { return views_[static_cast<size_t>(node_.output)]; }

  // Weights in the forms that kernels take. They live as long as the network.
  PackedWeightPtr matrix(size_t input, WeightForm form = WeightForm::plain) const;
  const float* vector(size_t input) const;  // null when absent
  Tensor table(size_t input) const;
  // These bytes where the kernels can read them.
  std::shared_ptr<const void> constant(const void* data, size_t bytes) const;
  // All that matrix() gave.
  const std::vector<PackedWeightPtr>& matrices() const { return matrices_; }
  const Shape& weight_shape(size_t input) const { return graph_.value(slot(input)).shape; }

  int64_t workspace_offset() const { return workspace_; }
  const KernelContext& kernels() const { return kernels_; }

 private:
  const Node& node_;
  const Graph& graph_;
  const std::vector<View>& views_;
  DType dtype_;
  int64_t workspace_;
  WeightStore* weights_;
  const KernelContext& kernels_;
  mutable std::vector<PackedWeightPtr> matrices_;
};

struct Op {
  struct Input {
    const char* name;
    enum Kind : uint8_t { value, optional_value, weight, optional_weight } kind = value;
    bool exact = false;  // as an input of the graph it stays float32: every digit counts
  };

  const char* name;
  std::vector<Input> inputs;
  bool variadic = false;  // the last input may be repeated

  // Throws Error(invalid_argument) for attributes that make no sense.
  void (*check)(const Attrs&);
  // The type of the output, or Error(invalid_argument) when the inputs do not fit.
  TensorType (*infer)(const Node&, std::span<const TensorType> inputs);

  // Bytes of scratch that the step needs; null means none.
  size_t (*workspace)(const Lowering&) = nullptr;
  // The step; null for ops that move nothing (is_view, is_concat).
  Step (*lower)(const Lowering&) = nullptr;

  bool is_view = false;    // the output is the first input's memory under other sizes
  bool is_concat = false;  // the output is its inputs side by side: producers write in place
  // Of a view that shows only some pixels of each image: the first of them.
  int64_t (*first_pixel)(const Node&, const View& from, const View& to) = nullptr;
  bool writes_halo = false;  // may write into a buffer with a border
  // Whether the step reads its first input faster from one; null: never.
  bool (*wants_halo)(const Lowering&) = nullptr;
  bool in_place = false;  // may write its output over its first input
  bool fuses_activation = false;
  bool fuses_add = false;  // residual and image bias
  // Multiply-adds counted as two, for profiles; null means none worth counting.
  double (*flops)(const Node&, std::span<const TensorType> inputs,
                  const TensorType& output) = nullptr;
};

#define SDCORE_OP(name) extern const Op op_##name;
#include "graph/ops/ops.inc"
#undef SDCORE_OP

const std::vector<const Op*>& all_ops();
const Op& find_op(std::string_view name);  // throws Error(invalid_argument): unknown op

}  // namespace sdcore
