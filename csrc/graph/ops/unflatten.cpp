// unflatten(x [n, t, c], like [n, h, w, ...]) -> [n, h, w, c]; the same memory, sizes of `like`
#include "graph/ops/common.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("unflatten", "x", in[0], 3, 3);
  require_rank("unflatten", "like", in[1], 4, 4);
  const Shape& s = in[0].shape;
  const Shape& like = in[1].shape;
  require(like[1] * like[2] == s[1], ErrorKind::invalid_argument, "[unflatten] ", s[1],
          " tokens do not fill an image of ", to_string(like));
  return {{s[0], like[1], like[2], s[2]}, in[0].dtype};
}

}  // namespace

const Op op_unflatten = {
    .name = "unflatten",
    .inputs = {{"x"}, {"like"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("unflatten", attrs); },
    .infer = infer,
    .is_view = true,
};

}  // namespace sdcore
