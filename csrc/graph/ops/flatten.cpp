// flatten(x [n, h, w, c]) -> tokens [n, h * w, c], row by row; the same memory
#include "graph/ops/common.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("flatten", "x", in[0], 4, 4);
  const Shape& s = in[0].shape;
  return {{s[0], s[1] * s[2], s[3]}, in[0].dtype};
}

}  // namespace

const Op op_flatten = {
    .name = "flatten",
    .inputs = {{"x"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("flatten", attrs); },
    .infer = infer,
    .is_view = true,
};

}  // namespace sdcore
