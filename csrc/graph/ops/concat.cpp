// concat(x0 [..., c0], x1 [..., c1], …) -> [..., c0 + c1 + …]
#include "graph/ops/common.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  TensorType out = in[0];
  for (size_t i = 1; i < in.size(); ++i) {
    Shape wanted = out.shape;
    wanted.back() = channels(in[i]);
    require(in[i].shape == wanted, ErrorKind::invalid_argument,
            "[concat] all but the channels must agree, got ", to_string(in[0].shape), " and ",
            to_string(in[i].shape));
    out.shape.back() += channels(in[i]);
  }
  return out;
}

}  // namespace

const Op op_concat = {
    .name = "concat",
    .inputs = {{"x"}},
    .variadic = true,
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("concat", attrs); },
    .infer = infer,
    .is_concat = true,
};

}  // namespace sdcore
