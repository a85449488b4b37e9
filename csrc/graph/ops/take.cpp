// take(x [n, t, c], index [n]) -> [n, c]: one token of each sequence
#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("take", "x", in[0], 3, 3);
  const Shape& x = in[0].shape;
  require(in[1].dtype == DType::i32 && in[1].shape == Shape{x[0]}, ErrorKind::invalid_argument,
          "[take] index must be ", x[0], " whole numbers, one a sequence, got ",
          to_string(in[1].shape));
  return {{x[0], x[2]}, in[0].dtype};
}

View one_token(const View& v, int64_t n, int64_t token) {
  View one = v;
  one.data =
      static_cast<std::byte*>(v.data) + (n * v.stride_n + token * v.stride_w) * dtype_size(v.dtype);
  one.n = one.h = one.w = 1;
  return one;
}

Step lower(const Lowering& l) {
  return [x = l.slot(0), index = l.slot(1), out = l.output_slot()](const Run& run) {
    const View &from = run.views[x], &to = run.views[out];
    for (int64_t n = 0; n < from.n; ++n) {
      const int32_t token = *run.views[index].at<const int32_t>(n, 0, 0);
      require(token >= 0 && token < from.w, ErrorKind::invalid_argument, "[take] index ", token,
              " is outside a sequence of ", from.w);
      unary({one_token(from, n, token), one_token(to, n, 0), Activation::none}, run.kernels);
    }
  };
}

}  // namespace

const Op op_take = {
    .name = "take",
    .inputs = {{"x"}, {"index"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("take", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
