// linear(x [..., i], weight [o, i], bias [o]) -> [..., o]
#include "graph/ops/common.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("linear", "x", in[0], 2, 4);
  require_rank("linear", "weight", in[1], 2, 2);
  require_channels("linear", "x", in[0], in[1].shape[1]);
  TensorType out = in[0];
  out.shape.back() = in[1].shape[0];
  return out;
}

Step lower(const Lowering& l) {
  return [weight = l.matrix(1), epilogue = EpilogueSlots(l, 2), in = l.slot(0),
          out = l.output_slot()](const Run& run) {
    linear({run.views[in], run.views[out], weight, epilogue.resolve(run.views)}, run.kernels);
  };
}

double flops(const Node&, std::span<const TensorType> in, const TensorType& out) {
  return 2.0 * static_cast<double>(element_count(out.shape)) * static_cast<double>(in[1].shape[1]);
}

}  // namespace

const Op op_linear = {
    .name = "linear",
    .inputs = {{"x"}, {"weight", Op::Input::weight}, {"bias", Op::Input::optional_weight}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("linear", attrs); },
    .infer = infer,
    .lower = lower,
    .fuses_activation = true,
    .fuses_add = true,
    .flops = flops,
};

}  // namespace sdcore
