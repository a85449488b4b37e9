// merge_tokens(x [n, k, c]) -> [n, k * c]: one token after another as channels
#include "graph/ops/regroup.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("merge_tokens", "x", in[0], 3, 3);
  return {{in[0].shape[0], in[0].shape[1] * in[0].shape[2]}, in[0].dtype};
}

}  // namespace

const Op op_merge_tokens = {
    .name = "merge_tokens",
    .inputs = {{"x"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("merge_tokens", attrs); },
    .infer = infer,
    .lower = [](const Lowering& l) { return lower_regroup(l, l.view(0).w); },
};

}  // namespace sdcore
