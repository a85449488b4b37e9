// concat_tokens(x0 [n, t0, c], x1 [n, t1, c], …) -> [n, t0 + t1 + …, c]
#include "graph/ops/common.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  TensorType out = in[0];
  require_rank("concat_tokens", "x", in[0], 3, 3);
  for (size_t i = 1; i < in.size(); ++i) {
    require_rank("concat_tokens", "x", in[i], 3, 3);
    require(in[i].shape[0] == out.shape[0] && in[i].shape[2] == out.shape[2],
            ErrorKind::invalid_argument, "[concat_tokens] all but the tokens must agree, got ",
            to_string(in[0].shape), " and ", to_string(in[i].shape));
    out.shape[1] += in[i].shape[1];
  }
  return out;
}

}  // namespace

const Op op_concat_tokens = {
    .name = "concat_tokens",
    .inputs = {{"x"}},
    .variadic = true,
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("concat_tokens", attrs); },
    .infer = infer,
    .is_concat = true,
};

}  // namespace sdcore
