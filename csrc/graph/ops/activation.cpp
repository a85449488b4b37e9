// activation(x, kind="silu" | "gelu" | "gelu_tanh" | "quick_gelu" | "relu") -> the same sizes
#include "graph/ops/activation.h"

#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

struct ActivationAttrs {
  std::string kind;

  template <class F>
  void fields(F&& f) {
    f("kind", kind);
  }
};

Step lower(const Lowering& l) {
  return [kind = activation_kind(l.attrs()), in = l.slot(0), out = l.output_slot()](
             const Run& run) { unary({run.views[in], run.views[out], kind}, run.kernels); };
}

}  // namespace

Activation activation_kind(const Attrs& attrs) {
  return parse_activation("activation", read_attrs<ActivationAttrs>("activation", attrs).kind);
}

const Op op_activation = {
    .name = "activation",
    .inputs = {{"x"}},
    .check = [](const Attrs& attrs) { (void)activation_kind(attrs); },
    .infer = [](const Node&, std::span<const TensorType> in) { return in[0]; },
    .lower = lower,
    .writes_halo = true,
    .in_place = true,
};

}  // namespace sdcore
