// mean_tokens(x [n, t, c], groups [n, t], image [n, h, w, ...], ratio) -> [n, t', c]: a token for
// each of the groups that token_groups gives for the same image and ratio
#include "graph/ops/merging.h"

namespace sdcore {
namespace {

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("mean_tokens", "x", in[0], 3, 3);
  require_rank("mean_tokens", "image", in[2], 4, 4);
  const Shape &x = in[0].shape, &image = in[2].shape;
  require(in[1].dtype == DType::i32 && in[1].shape == Shape({x[0], x[1]}),
          ErrorKind::invalid_argument, "[mean_tokens] groups must be whole numbers, one a token");
  require(x[1] == image[1] * image[2], ErrorKind::invalid_argument,
          "[mean_tokens] x must have the tokens of image, got ", to_string(x), " and ",
          to_string(image));
  const double ratio = read_merging("mean_tokens", node.attrs).ratio;
  return {{x[0], x[1] - merged_tokens(image[1], image[2], ratio), x[2]}, in[0].dtype};
}

Step lower(const Lowering& l) {
  return [in = l.slot(0), groups = l.slot(1), out = l.output_slot()](const Run& run) {
    mean_tokens({run.views[in], run.views[groups], run.views[out]}, run.kernels);
  };
}

}  // namespace

const Op op_mean_tokens = {
    .name = "mean_tokens",
    .inputs = {{"x"}, {"groups"}, {"image"}},
    .check = [](const Attrs& attrs) { (void)read_merging("mean_tokens", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
