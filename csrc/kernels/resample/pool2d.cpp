// The largest or the mean of windows: a few numbers a pixel, so no instruction set has its own.
#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "kernels/resample/gpu.h"
#include "kernels/resample/resample.h"

namespace sdcore {
namespace {

constexpr int64_t kChannels = 64;  // summed at once

float widen(float value) { return value; }
float widen(bf16 value) { return to_float(value); }
void put(float& to, float value) { to = value; }
void put(bf16& to, float value) { to = to_bf16(value); }

// The places that a window covers inside of an image, begin and end.
struct Range {
  int64_t begin, end;

  Range(int64_t first, int64_t kernel, int64_t size)
      : begin(std::max<int64_t>(first, 0)), end(std::min(first + kernel, size)) {}
};

template <class T>
void pool_pixel(const PoolArgs& args, int64_t n, int64_t y, int64_t x) {
  const Range rows(y * args.stride - args.pad_top, args.kernel_h, args.in.h);
  const Range columns(x * args.stride - args.pad_left, args.kernel_w, args.in.w);
  const bool is_max = args.kind == Pooling::max;
  const auto pixels = static_cast<float>((rows.end - rows.begin) * (columns.end - columns.begin));
  T* to = args.out.at<T>(n, y, x);
  std::array<float, kChannels> sums;
  for (int64_t c = 0; c < args.in.c; c += kChannels) {
    const int64_t count = std::min(kChannels, args.in.c - c);
    sums.fill(is_max ? -std::numeric_limits<float>::infinity() : 0.0f);
    for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
      for (int64_t ix = columns.begin; ix < columns.end; ++ix) {
        const T* from = args.in.at<const T>(n, iy, ix) + c;
        for (int64_t i = 0; i < count; ++i) {
          float& sum = sums[static_cast<size_t>(i)];
          sum = is_max ? std::max(sum, widen(from[i])) : sum + widen(from[i]);
        }
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const float sum = sums[static_cast<size_t>(i)];
      put(to[c + i], is_max ? sum : sum / pixels);
    }
  }
}

}  // namespace

void pool2d(const PoolArgs& args, const KernelContext& context) {
  const View &in = args.in, &out = args.out;
  require(in.dtype == out.dtype && in.dtype != DType::i32, ErrorKind::invalid_argument,
          "[pool2d] in and out must be floats of one type, got ", dtype_name(in.dtype), " and ",
          dtype_name(out.dtype));
  require(in.n == out.n && in.c == out.c, ErrorKind::invalid_argument,
          "[pool2d] in and out must have the same images and channels, got ", in.n, " and ", out.n,
          ", ", in.c, " and ", out.c);
  if (context.device) return resample::gpu_kernel(*context.device).pool2d(args, *context.device);
  context.pool.parallel_for(out.n * out.h, [&](int64_t task, int) {
    const int64_t n = task / out.h, y = task % out.h;
    for (int64_t x = 0; x < out.w; ++x) {
      if (in.dtype == DType::bf16) {
        pool_pixel<bf16>(args, n, y, x);
      } else {
        pool_pixel<float>(args, n, y, x);
      }
    }
  });
}

}  // namespace sdcore
