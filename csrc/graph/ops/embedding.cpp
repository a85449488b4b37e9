// embedding(ids [n, t], table [rows, c]) -> [n, t, c]
#include "kernels/embedding/embedding.h"

#include "graph/ops/common.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require(in[0].dtype == DType::i32 && in[0].shape.size() == 2, ErrorKind::invalid_argument,
          "[embedding] ids must be whole numbers [n, t], got ", to_string(in[0].shape));
  require_rank("embedding", "table", in[1], 2, 2);
  return {{in[0].shape[0], in[0].shape[1], in[1].shape[1]}, DType::f32};
}

Step lower(const Lowering& l) {
  return [table = l.table(1), ids = l.slot(0), out = l.output_slot()](const Run& run) {
    embedding({run.views[ids], table, run.views[out]}, run.kernels);
  };
}

}  // namespace

const Op op_embedding = {
    .name = "embedding",
    .inputs = {{"ids"}, {"table", Op::Input::weight}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("embedding", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
