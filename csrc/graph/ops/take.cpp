// take(x [n, t, c], index [n]) -> [n, c]: one token of each sequence
#include "graph/ops/common.h"
#include "kernels/embedding/embedding.h"

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

Step lower(const Lowering& l) {
  return [x = l.slot(0), index = l.slot(1), out = l.output_slot()](const Run& run) {
    take({run.views[x], run.views[index], run.views[out]}, run.kernels);
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
