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

constexpr GpuKernel kGpuKernel = {gpu::kBackend, upsample_nearest};

}  // namespace
}  // namespace sdcore::resample
