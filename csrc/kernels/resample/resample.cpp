// Copies of pixels: the C library's memcpy already uses the best instructions there are.
#include "kernels/resample/resample.h"

#include <cstring>

#include "base/error.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/resample/gpu.h"

namespace sdcore {
namespace {

struct Bytes {
  std::byte* data;
  int64_t stride_n, stride_h, stride_w;

  explicit Bytes(const View& v)
      : data(static_cast<std::byte*>(v.data)),
        stride_n(v.stride_n * dtype_size(v.dtype)),
        stride_h(v.stride_h * dtype_size(v.dtype)),
        stride_w(v.stride_w * dtype_size(v.dtype)) {}
  std::byte* row(int64_t n, int64_t y) const { return data + n * stride_n + y * stride_h; }
};

}  // namespace

void upsample_nearest(const UpsampleArgs& args, const KernelContext& context) {
  const View &in = args.in, &out = args.out;
  require(in.dtype == out.dtype, ErrorKind::invalid_argument, "[upsample_nearest] in is ",
          dtype_name(in.dtype), " but out is ", dtype_name(out.dtype));
  require(in.n == out.n && in.c == out.c && (out.h * out.w == 0 || in.h * in.w > 0),
          ErrorKind::invalid_argument, "[upsample_nearest] in and out must have the same images ",
          "and channels, got ", in.n, " and ", out.n, ", ", in.c, " and ", out.c);
  if (context.device) {
    return resample::gpu_kernel(*context.device).upsample_nearest(args, *context.device);
  }
  const Bytes from(in), to(out);
  const size_t bytes = static_cast<size_t>(in.c * dtype_size(in.dtype));
  // A task is an input row and every output row that repeats it.
  context.pool.parallel_for(out.n * in.h, [&](int64_t task, int) {
    const int64_t n = task / in.h, source = task % in.h;
    const std::byte* row = from.row(n, source);
    // The first y with y * in.h / out.h >= source, and so for the next row.
    const int64_t begin = (source * out.h + in.h - 1) / in.h;
    const int64_t end = ((source + 1) * out.h + in.h - 1) / in.h;
    for (int64_t y = begin; y < end; ++y) {
      std::byte* pixel = to.row(n, y);
      for (int64_t x = 0; x < out.w; ++x, pixel += to.stride_w) {
        std::memcpy(pixel, row + x * in.w / out.w * from.stride_w, bytes);
      }
    }
  });
}

void depth_to_space(const DepthToSpaceArgs& args, const KernelContext& context) {
  const View &in = args.in, &out = args.out;
  const int64_t size = in.h > 0 ? out.h / in.h : 0;
  require(size > 0 && in.n == out.n && out.h == in.h * size && out.w == in.w * size &&
              in.c == out.c * size * size,
          ErrorKind::invalid_argument, "[depth_to_space] out does not hold the pixels of in");
  // Row i of every square is a strided image of its own: w pixels of size * c channels.
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < size; ++j) {
      View from = in, to = out;
      from.c = out.c;
      from.data = static_cast<std::byte*>(in.data) + (i * size + j) * out.c * dtype_size(in.dtype);
      to.h = in.h;
      to.w = in.w;
      to.data = static_cast<std::byte*>(out.data) +
                (i * out.stride_h + j * out.stride_w) * dtype_size(out.dtype);
      to.stride_h *= size;
      to.stride_w *= size;
      unary({from, to, Activation::none}, context);
    }
  }
}

}  // namespace sdcore
