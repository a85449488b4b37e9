// sincos_embedding(x [n, h, w, ...], dim, base_size, scale) -> [1, h, w, dim]: sinusoids of a
// pixel's place in an image stretched to base_size, diffusers' get_2d_sincos_pos_embed
#include <cmath>

#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

struct SincosAttrs {
  int64_t dim = 0;
  int64_t base_size = 16;
  double scale = 1.0;

  template <class F>
  void fields(F&& f) {
    f("dim", dim);
    f("base_size", base_size);
    f("scale", scale);
  }
};

SincosAttrs read(const Attrs& attrs) { return read_attrs<SincosAttrs>("sincos_embedding", attrs); }

void check(const Attrs& attrs) {
  const SincosAttrs a = read(attrs);
  require(a.dim >= 4 && a.dim % 4 == 0 && a.base_size >= 1 && a.scale > 0,
          ErrorKind::invalid_argument,
          "[sincos_embedding] dim must be a positive multiple of 4 and the others positive, got ",
          a.dim, ", ", a.base_size, " and ", a.scale);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("sincos_embedding", "x", in[0], 4, 4);
  return {{1, in[0].shape[1], in[0].shape[2], read(node.attrs).dim}, in[0].dtype};
}

// [count][dim / 2]: sines, then cosines, of every place along one side. The place is rounded to
// float where the reference rounds it.
std::vector<float> along(int64_t count, const SincosAttrs& a) {
  const int64_t quarter = a.dim / 4;
  const float stretch =
      static_cast<float>(static_cast<double>(count) / static_cast<double>(a.base_size));
  std::vector<float> table;
  for (int64_t i = 0; i < count; ++i) {
    const double place = static_cast<float>(i) / stretch / static_cast<float>(a.scale);
    const auto angle = [&](int64_t k) {
      return place / std::pow(10000.0, static_cast<double>(k) / static_cast<double>(quarter));
    };
    for (int64_t k = 0; k < quarter; ++k) table.push_back(static_cast<float>(std::sin(angle(k))));
    for (int64_t k = 0; k < quarter; ++k) table.push_back(static_cast<float>(std::cos(angle(k))));
  }
  return table;
}

// The first half of the channels speaks of x, the second of y.
Step lower(const Lowering& l) {
  const SincosAttrs a = read(l.attrs());
  const View& out = l.output();
  const auto kept = [&](const std::vector<float>& table) {
    return l.constant(table.data(), table.size() * sizeof(float));
  };
  const auto columns = kept(along(out.w, a)), rows = kept(along(out.h, a));
  return [columns, rows, half = a.dim / 2, slot = l.output_slot()](const Run& run) {
    const View& to = run.views[slot];
    const int64_t size = dtype_size(to.dtype);
    const auto part = [&](const std::shared_ptr<const void>& table) {
      return View{const_cast<void*>(table.get()), DType::f32, 1, to.h, to.w, half};
    };
    View left = to, right = to;
    left.c = right.c = half;
    right.data = static_cast<std::byte*>(to.data) + half * size;
    View x = part(columns), y = part(rows);
    x.stride_w = half;  // the same row for every y
    y.stride_h = half;  // the same number for every x
    unary({x, left}, run.kernels);
    unary({y, right}, run.kernels);
  };
}

}  // namespace

const Op op_sincos_embedding = {
    .name = "sincos_embedding",
    .inputs = {{"x"}},
    .check = check,
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
