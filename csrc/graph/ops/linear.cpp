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
  return [weight = l.matrix(1, allows_int8_activations(l.attrs())), epilogue = EpilogueSlots(l, 2),
          in = l.slot(0), out = l.output_slot()](const Run& run) {
    linear({run.views[in], run.views[out], weight, epilogue.resolve(run.views)}, run.kernels);
  };
}

double flops(const Node&, std::span<const TensorType> in, const TensorType& out) {
  return 2.0 * static_cast<double>(element_count(out.shape)) * static_cast<double>(in[1].shape[1]);
}

}  // namespace

bool allows_int8_activations(const Attrs& attrs) {
  return read_attrs<LinearAttrs>("linear", attrs).int8_activations;
}

const Op op_linear = {
    .name = "linear",
    .inputs = {{"x"}, {"weight", Op::Input::weight}, {"bias", Op::Input::optional_weight}},
    .check = [](const Attrs& attrs) { check_attrs<LinearAttrs>("linear", attrs); },
    .infer = infer,
    .lower = lower,
    .fuses_activation = true,
    .fuses_add = true,
    .flops = flops,
};

}  // namespace sdcore
