// pool2d(x [n, h, w, c], kind="max" | "mean", kernel, stride, padding) -> [n, h', w', c]; what lies
// outside of the image does not count
#include "graph/ops/common.h"
#include "kernels/resample/resample.h"

namespace sdcore {
namespace {

struct Pool2dAttrs {
  std::string kind;
  std::vector<int64_t> kernel = {1, 1};  // height and width
  int64_t stride = 1;
  std::vector<int64_t> padding = {0, 0, 0, 0};  // top, left, bottom, right

  template <class F>
  void fields(F&& f) {
    f("kind", kind);
    f("kernel", kernel);
    f("stride", stride);
    f("padding", padding);
  }
};

Pool2dAttrs read(const Attrs& attrs) { return read_attrs<Pool2dAttrs>("pool2d", attrs); }

void check(const Attrs& attrs) {
  const Pool2dAttrs a = read(attrs);
  require(a.kind == "max" || a.kind == "mean", ErrorKind::invalid_argument,
          "[pool2d] kind must be max or mean, got '", a.kind, "'");
  require(a.kernel.size() == 2 && a.padding.size() == 4, ErrorKind::invalid_argument,
          "[pool2d] kernel is height and width, padding top, left, bottom and right, got ",
          to_string(a.kernel), " and ", to_string(a.padding));
  for (const int64_t size : a.kernel) {
    require(size >= 1 && size <= 4096, ErrorKind::invalid_argument,
            "[pool2d] kernel must be between 1 and 4096, got ", size);
  }
  require(a.stride >= 1 && a.stride <= 16, ErrorKind::invalid_argument,
          "[pool2d] stride must be between 1 and 16, got ", a.stride);
  for (size_t i = 0; i < a.padding.size(); ++i) {
    require(a.padding[i] >= 0 && a.padding[i] < a.kernel[i % 2], ErrorKind::invalid_argument,
            "[pool2d] padding must be less than the kernel, so that no window is outside, got ",
            a.padding[i], " of ", a.kernel[i % 2]);
  }
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  const Pool2dAttrs a = read(node.attrs);
  require_rank("pool2d", "x", in[0], 4, 4);
  TensorType out = in[0];
  for (size_t i = 0; i < 2; ++i) {
    const int64_t size = in[0].shape[i + 1] + a.padding[i] + a.padding[i + 2] - a.kernel[i];
    require(in[0].shape[i + 1] > 0 && size >= 0, ErrorKind::invalid_argument,
            "[pool2d] an image of ", to_string(in[0].shape), " is smaller than the kernel ",
            to_string(a.kernel));
    out.shape[i + 1] = size / a.stride + 1;
  }
  return out;
}

Step lower(const Lowering& l) {
  const Pool2dAttrs a = read(l.attrs());
  PoolArgs args;
  args.kind = a.kind == "max" ? Pooling::max : Pooling::mean;
  args.kernel_h = a.kernel[0];
  args.kernel_w = a.kernel[1];
  args.stride = a.stride;
  args.pad_top = a.padding[0];
  args.pad_left = a.padding[1];
  return [args, in = l.slot(0), out = l.output_slot()](const Run& run) {
    PoolArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    pool2d(now, run.kernels);
  };
}

}  // namespace

const Op op_pool2d = {
    .name = "pool2d",
    .inputs = {{"x"}},
    .check = check,
    .infer = infer,
    .lower = lower,
    .writes_halo = true,
};

}  // namespace sdcore
