// slice_tokens(x [n, t, c], begin, count) -> [n, count, c]; slice_tokens(x, like [n, t', ...]) has
// as many tokens as `like`. With `last` they are counted from the end. The same memory.
#include "graph/ops/common.h"

namespace sdcore {
namespace {

struct SliceAttrs {
  int64_t begin = 0;
  int64_t count = 1;
  bool last = false;

  template <class F>
  void fields(F&& f) {
    f("begin", begin);
    f("count", count);
    f("last", last);
  }
};

SliceAttrs read(const Attrs& attrs) { return read_attrs<SliceAttrs>("slice_tokens", attrs); }

void check(const Attrs& attrs) {
  const SliceAttrs a = read(attrs);
  require(a.begin >= 0 && a.count >= 1, ErrorKind::invalid_argument,
          "[slice_tokens] begin and count must be positive, got ", a.begin, " and ", a.count);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("slice_tokens", "x", in[0], 3, 3);
  const SliceAttrs a = read(node.attrs);
  const bool by_like = in.size() > 1 && !in[1].shape.empty();
  if (by_like) require_rank("slice_tokens", "like", in[1], 3, 3);
  const int64_t count = by_like ? in[1].shape[1] : a.count;
  require(a.begin + count <= in[0].shape[1], ErrorKind::invalid_argument, "[slice_tokens] ", count,
          " tokens from ", a.begin, " are more than there are in ", to_string(in[0].shape));
  return {{in[0].shape[0], count, in[0].shape[2]}, in[0].dtype};
}

int64_t first_pixel(const Node& node, const View& from, const View& to) {
  const SliceAttrs a = read(node.attrs);
  return a.last ? from.w - to.w - a.begin : a.begin;
}

}  // namespace

const Op op_slice_tokens = {
    .name = "slice_tokens",
    .inputs = {{"x"}, {"like", Op::Input::optional_value}},
    .check = check,
    .infer = infer,
    .is_view = true,
    .first_pixel = first_pixel,
};

}  // namespace sdcore
