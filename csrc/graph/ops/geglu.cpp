// geglu(x [..., 2c]) -> [..., c]: the first half times gelu of the second
#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require(channels(in[0]) % 2 == 0, ErrorKind::invalid_argument,
          "[geglu] channels must be even, got ", to_string(in[0].shape));
  TensorType out = in[0];
  out.shape.back() /= 2;
  return out;
}

Step lower(const Lowering& l) {
  return [in = l.slot(0), out = l.output_slot()](const Run& run) {
    geglu({run.views[in], run.views[out]}, run.kernels);
  };
}

}  // namespace

const Op op_geglu = {
    .name = "geglu",
    .inputs = {{"x"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("geglu", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
