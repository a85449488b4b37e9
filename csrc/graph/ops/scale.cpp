// scale(x, factor) -> x * factor
#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

struct ScaleAttrs {
  double factor = 1.0;

  template <class F>
  void fields(F&& f) {
    f("factor", factor);
  }
};

Step lower(const Lowering& l) {
  const auto factor = static_cast<float>(read_attrs<ScaleAttrs>("scale", l.attrs()).factor);
  return [factor, in = l.slot(0), out = l.output_slot()](const Run& run) {
    scale({run.views[in], run.views[out], factor}, run.kernels);
  };
}

}  // namespace

const Op op_scale = {
    .name = "scale",
    .inputs = {{"x"}},
    .check = [](const Attrs& attrs) { check_attrs<ScaleAttrs>("scale", attrs); },
    .infer = [](const Node&, std::span<const TensorType> in) { return in[0]; },
    .lower = lower,
};

}  // namespace sdcore
