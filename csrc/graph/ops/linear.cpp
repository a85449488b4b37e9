// linear(x [..., i], weight [o, i], bias [o]) -> [..., o]; with int8_activations, x may be rounded
// to 8 bits, 32 of a row with one scale, where bf16 activations meet quantized weights
#include "graph/ops/linear.h"

#include "graph/ops/common.h"

namespace sdcore {
namespace {

struct LinearAttrs {
  bool int8_activations = false;

  template <class F>
  void fields(F&& f) {
    f("int8_activations", int8_activations);
  }
};

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("linear", "x", in[0], 2, 4);
  require_rank("linear", "weight", in[1], 2, 2);
  require_channels("linear", "x", in[0], in[1].shape[1]);
  TensorType out = in[0];
  out.shape.back() = in[1].shape[0];
  return out;
}

Step lower(const Lowering& l) {
  return [weight = l.matrix(1, linear_form(l.attrs(), l.fused())), epilogue = EpilogueSlots(l, 2),
          in = l.slot(0), out = l.output_slot(), scratch = l.workspace_offset()](const Run& run) {
    linear(
        {run.views[in], run.views[out], weight, epilogue.resolve(run.views), run.arena + scratch},
        run.kernels);
  };
}

size_t workspace(const Lowering& l) {
  return linear_workspace(l.view(0), l.output(), l.weight_shape(1)[0], l.kernels());
}

double flops(const Node&, std::span<const TensorType> in, const TensorType& out) {
  // Of gated ones the output has half of the sums.
  const double rows = static_cast<double>(element_count(out.shape) / out.shape.back());
  return 2.0 * rows * static_cast<double>(element_count(in[1].shape));
}

}  // namespace

bool allows_int8_activations(const Attrs& attrs) {
  return read_attrs<LinearAttrs>("linear", attrs).int8_activations;
}

WeightForm linear_form(const Attrs& attrs, const Fused& fused) {
  if (fused.gated) return WeightForm::gated;
  return allows_int8_activations(attrs) ? WeightForm::int8_activations : WeightForm::plain;
}

const Op op_linear = {
    .name = "linear",
    .inputs = {{"x"}, {"weight", Op::Input::weight}, {"bias", Op::Input::optional_weight}},
    .check = [](const Attrs& attrs) { check_attrs<LinearAttrs>("linear", attrs); },
    .infer = infer,
    .workspace = workspace,
    .lower = lower,
    .fuses_activation = true,
    .fuses_add = true,
    .flops = flops,
};

}  // namespace sdcore
