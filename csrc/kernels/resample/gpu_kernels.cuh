#pragma once

#include "kernels/gpu.cuh"
#include "kernels/resample/gpu.h"

namespace sdcore::resample {
namespace {

constexpr int kThreads = 256;

template <int n>
__global__ void __launch_bounds__(kThreads) upsample_kernel(UpsampleArgs args, uint32_t count) {
  const View &in = args.in, &out = args.out;
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= count) return;
  const auto vectors = static_cast<uint32_t>(out.c / n);
  const Pixel p =
      pixel_at(index / vectors, static_cast<uint32_t>(out.h), static_cast<uint32_t>(out.w));
  const int64_t c = static_cast<int64_t>(index % vectors) * n;
  const Pixel source = {p.n, p.h * in.h / out.h, p.w * in.w / out.w};
  store<n>(out.data, out.dtype, element(out, p) + c,
           load<n>(in.data, in.dtype, element(in, source) + c));
}

void upsample_nearest(const UpsampleArgs& args, gpu::Device& device) {
  const bool whole = is_vectorized(args.in) && is_vectorized(args.out);
  const int64_t count = args.out.pixels() * args.out.c / (whole ? kVector : 1);
  if (count == 0) return;
  require(count < INT32_MAX, ErrorKind::invalid_argument, "[upsample] ", count,
          " vectors are too many for one kernel");
  launch(device, whole ? upsample_kernel<kVector> : upsample_kernel<1>,
         static_cast<uint32_t>(blocks_of(count, kThreads)), kThreads, 0, args,
         static_cast<uint32_t>(count));
}

template <int n>
__global__ void __launch_bounds__(kThreads) pool_kernel(PoolArgs args, uint32_t count) {
  const View &in = args.in, &out = args.out;
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= count) return;
  const auto vectors = static_cast<uint32_t>(out.c / n);
  const Pixel p =
      pixel_at(index / vectors, static_cast<uint32_t>(out.h), static_cast<uint32_t>(out.w));
  const int64_t c = static_cast<int64_t>(index % vectors) * n;
  const int64_t top = p.h * args.stride - args.pad_top, left = p.w * args.stride - args.pad_left;
  const int64_t y0 = top > 0 ? top : 0, x0 = left > 0 ? left : 0;
  const int64_t y1 = top + args.kernel_h < in.h ? top + args.kernel_h : in.h;
  const int64_t x1 = left + args.kernel_w < in.w ? left + args.kernel_w : in.w;
  auto sum = load<n>(in.data, in.dtype, element(in, {p.n, y0, x0}) + c);
  for (int64_t y = y0; y < y1; ++y) {
    for (int64_t x = y == y0 ? x0 + 1 : x0; x < x1; ++x) {
      const auto one = load<n>(in.data, in.dtype, element(in, {p.n, y, x}) + c);
      SDCORE_UNROLL
      for (int i = 0; i < n; ++i) {
        if (args.kind == Pooling::mean) {
          sum.v[i] += one.v[i];
        } else if (one.v[i] > sum.v[i]) {
          sum.v[i] = one.v[i];
        }
      }
    }
  }
  if (args.kind == Pooling::mean) {
    const auto pixels = static_cast<float>((y1 - y0) * (x1 - x0));
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) sum.v[i] /= pixels;
  }
  store<n>(out.data, out.dtype, element(out, p) + c, sum);
}

void pool2d(const PoolArgs& args, gpu::Device& device) {
  const bool whole = is_vectorized(args.in) && is_vectorized(args.out);
  const int64_t count = args.out.pixels() * args.out.c / (whole ? kVector : 1);
  if (count == 0) return;
  require(count < INT32_MAX, ErrorKind::invalid_argument, "[pool2d] ", count,
          " vectors are too many for one kernel");
  launch(device, whole ? pool_kernel<kVector> : pool_kernel<1>,
         static_cast<uint32_t>(blocks_of(count, kThreads)), kThreads, 0, args,
         static_cast<uint32_t>(count));
}

constexpr GpuKernel kGpuKernel = {gpu::kBackend, upsample_nearest, pool2d};

}  // namespace
}  // namespace sdcore::resample
