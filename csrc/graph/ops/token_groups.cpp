// token_groups(x [n, t, c], image [n, h, w, ...], ratio) -> [n, t] whole numbers, for mean_tokens
// and spread_tokens: which tokens of an image of that size are one, so that `ratio` of them are
// fewer
#include "graph/ops/merging.h"

namespace sdcore {
namespace {

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("token_groups", "x", in[0], 3, 3);
  require_rank("token_groups", "image", in[1], 4, 4);
  const Shape &x = in[0].shape, &image = in[1].shape;
  require(x[0] == image[0] && x[1] == image[1] * image[2], ErrorKind::invalid_argument,
          "[token_groups] x must have the tokens of image, got ", to_string(x), " and ",
          to_string(image));
  (void)read_merging("token_groups", node.attrs);
  return {{x[0], x[1]}, DType::i32};
}

Step lower(const Lowering& l) {
  TokenGroupsArgs args;
  args.height = l.view(1).h;
  args.width = l.view(1).w;
  args.merged =
      merged_tokens(args.height, args.width, read_merging("token_groups", l.attrs()).ratio);
  return [args, in = l.slot(0), out = l.output_slot()](const Run& run) {
    TokenGroupsArgs now = args;
    now.in = run.views[in];
    now.groups = run.views[out];
    token_groups(now, run.kernels);
  };
}

}  // namespace

const Op op_token_groups = {
    .name = "token_groups",
    .inputs = {{"x"}, {"image"}},
    .check = [](const Attrs& attrs) { (void)read_merging("token_groups", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
