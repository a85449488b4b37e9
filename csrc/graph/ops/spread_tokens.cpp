// spread_tokens(x [n, t', c], groups [n, t]) -> [n, t, c]: to each token what its group has
#include "graph/ops/common.h"
#include "kernels/merging/merging.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("spread_tokens", "x", in[0], 3, 3);
  require(in[1].dtype == DType::i32 && in[1].shape.size() == 2 && in[1].shape[0] == in[0].shape[0],
          ErrorKind::invalid_argument, "[spread_tokens] groups must be whole numbers, one a token");
  return {{in[0].shape[0], in[1].shape[1], in[0].shape[2]}, in[0].dtype};
}

Step lower(const Lowering& l) {
  return [in = l.slot(0), groups = l.slot(1), out = l.output_slot()](const Run& run) {
    spread_tokens({run.views[in], run.views[groups], run.views[out]}, run.kernels);
  };
}

}  // namespace

const Op op_spread_tokens = {
    .name = "spread_tokens",
    .inputs = {{"x"}, {"groups"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("spread_tokens", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
