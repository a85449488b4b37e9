// crop_rows(x [n, h, w, c], top, bottom) -> [n, h - top - bottom, w, c]; the same memory
#include "graph/ops/common.h"

namespace sdcore {
namespace {

struct CropAttrs {
  int64_t top = 0;
  int64_t bottom = 0;

  template <class F>
  void fields(F&& f) {
    f("top", top);
    f("bottom", bottom);
  }
};

CropAttrs read(const Attrs& attrs) { return read_attrs<CropAttrs>("crop_rows", attrs); }

void check(const Attrs& attrs) {
  const CropAttrs a = read(attrs);
  require(a.top >= 0 && a.bottom >= 0, ErrorKind::invalid_argument,
          "[crop_rows] top and bottom cannot be negative, got ", a.top, " and ", a.bottom);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("crop_rows", "x", in[0], 4, 4);
  const CropAttrs a = read(node.attrs);
  TensorType out = in[0];
  require(a.top < out.shape[1] && a.bottom < out.shape[1] - a.top, ErrorKind::invalid_argument,
          "[crop_rows] there is nothing left of ", to_string(in[0].shape), " without ", a.top,
          " and ", a.bottom, " rows");
  out.shape[1] -= a.top + a.bottom;
  return out;
}

}  // namespace

const Op op_crop_rows = {
    .name = "crop_rows",
    .inputs = {{"x"}},
    .check = check,
    .infer = infer,
    .is_view = true,
    .first_pixel = [](const Node& node, const View& from,
                      const View&) { return read(node.attrs).top * from.w; },
};

}  // namespace sdcore
