// relative_bias(x [n, t, ...], table [buckets, heads], max_distance) -> [1, 2t - 1, heads], for
// `attention`: T5's learned bias of relative positions, both ways (Raffel et al. 2019;
// transformers' T5Attention._relative_position_bucket).
#include <cmath>

#include "graph/ops/gather.h"

namespace sdcore {
namespace {

struct RelativeBiasAttrs {
  int64_t max_distance = 128;

  template <class F>
  void fields(F&& f) {
    f("max_distance", max_distance);
  }
};

RelativeBiasAttrs read(const Attrs& attrs) {
  return read_attrs<RelativeBiasAttrs>("relative_bias", attrs);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("relative_bias", "x", in[0], 3, 3);
  require_rank("relative_bias", "table", in[1], 2, 2);
  const int64_t buckets = in[1].shape[0];
  require(buckets >= 4 && buckets % 4 == 0 && read(node.attrs).max_distance > buckets / 4,
          ErrorKind::invalid_argument,
          "[relative_bias] buckets must divide by 4, and a quarter of them be less than "
          "max_distance, got ",
          buckets, " and ", read(node.attrs).max_distance);
  return {{1, 2 * in[0].shape[1] - 1, in[1].shape[1]}, in[0].dtype};
}

// Half of the buckets are for keys after the query. In each half, half are for one distance each,
// and the others grow with its logarithm up to max_distance.
int32_t bucket_of(int64_t key_after, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2;
  const int64_t first = key_after > 0 ? half : 0, distance = std::abs(key_after);
  if (distance < exact) return static_cast<int32_t>(first + distance);
  // Rounded to float at every operation, as the reference does: the steps depend on it.
  const float ratio =
      std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const auto step = static_cast<int64_t>(ratio * static_cast<float>(half - exact));
  return static_cast<int32_t>(first + std::min(exact + step, half - 1));
}

Step lower(const Lowering& l) {
  const int64_t t = l.view(0).w, buckets = l.weight_shape(1)[0];
  std::vector<int32_t> rows;
  for (int64_t i = 0; i < 2 * t - 1; ++i) {
    rows.push_back(bucket_of(t - 1 - i, buckets, read(l.attrs()).max_distance));
  }
  return lower_gather(l, 1, rows);
}

}  // namespace

const Op op_relative_bias = {
    .name = "relative_bias",
    .inputs = {{"x"}, {"table", Op::Input::weight}},
    .check = [](const Attrs& attrs) { (void)read(attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
