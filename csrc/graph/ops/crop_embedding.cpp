// crop_embedding(x [n, h, w, ...], table [side * side, c]) -> [1, h, w, c]: the middle of a square
// of position embeddings, as Stable Diffusion 3 keeps them
#include "graph/ops/gather.h"

namespace sdcore {
namespace {

int64_t side_of(const Shape& table) {
  int64_t side = 1;
  while (side * side < table[0]) ++side;
  return side;
}

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("crop_embedding", "x", in[0], 4, 4);
  require_rank("crop_embedding", "table", in[1], 2, 2);
  const int64_t side = side_of(in[1].shape), h = in[0].shape[1], w = in[0].shape[2];
  require(side * side == in[1].shape[0], ErrorKind::invalid_argument,
          "[crop_embedding] the table must be a square of rows, got ", to_string(in[1].shape));
  require(h <= side && w <= side, ErrorKind::invalid_argument, "[crop_embedding] an image of ", h,
          " x ", w, " patches is larger than the model's ", side, " x ", side);
  return {{1, h, w, in[1].shape[1]}, in[0].dtype};
}

Step lower(const Lowering& l) {
  const int64_t side = side_of(l.weight_shape(1)), h = l.view(0).h, w = l.view(0).w;
  const int64_t top = (side - h) / 2, left = (side - w) / 2;
  std::vector<int32_t> rows;
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t x = 0; x < w; ++x) {
      rows.push_back(static_cast<int32_t>((top + y) * side + left + x));
    }
  }
  return lower_gather(l, 1, rows);
}

}  // namespace

const Op op_crop_embedding = {
    .name = "crop_embedding",
    .inputs = {{"x"}, {"table", Op::Input::weight}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("crop_embedding", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
