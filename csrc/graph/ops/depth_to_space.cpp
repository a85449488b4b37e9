// depth_to_space(x [n, h, w, size * size * c], size) -> [n, h * size, w * size, c]: a pixel's
// channels become a square of pixels, row by row
#include "graph/ops/common.h"
#include "kernels/resample/resample.h"

namespace sdcore {
namespace {

struct DepthToSpaceAttrs {
  int64_t size = 2;

  template <class F>
  void fields(F&& f) {
    f("size", size);
  }
};

DepthToSpaceAttrs read(const Attrs& attrs) {
  return read_attrs<DepthToSpaceAttrs>("depth_to_space", attrs);
}

void check(const Attrs& attrs) {
  const int64_t size = read(attrs).size;
  require(size >= 1 && size <= 64, ErrorKind::invalid_argument,
          "[depth_to_space] size must be between 1 and 64, got ", size);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("depth_to_space", "x", in[0], 4, 4);
  const int64_t size = read(node.attrs).size, c = channels(in[0]);
  require(c % (size * size) == 0, ErrorKind::invalid_argument,
          "[depth_to_space] channels must divide by the square of size, got ", c, " and ", size);
  const Shape& s = in[0].shape;
  return {{s[0], s[1] * size, s[2] * size, c / (size * size)}, in[0].dtype};
}

Step lower(const Lowering& l) {
  return [in = l.slot(0), out = l.output_slot()](const Run& run) {
    depth_to_space({run.views[in], run.views[out]}, run.kernels);
  };
}

}  // namespace

const Op op_depth_to_space = {
    .name = "depth_to_space",
    .inputs = {{"x"}},
    .check = check,
    .infer = infer,
    .lower = lower,
    .writes_halo = true,
};

}  // namespace sdcore
