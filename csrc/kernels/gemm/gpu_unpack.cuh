// Quantized weights unpacked into memory of their own, for kernels that the copy engine feeds. It
// is of one layer at a time and stays in the cache between the two.
#pragma once

#include "kernels/gemm/gpu_blocks.cuh"

namespace sdcore::gemm {
namespace {

constexpr int kUnpackThreads = 256;

template <class E, class Rows>
__global__ void __launch_bounds__(kUnpackThreads) unpack_kernel(GpuProduct p, uint32_t count) {
  const uint32_t index = blockIdx.x * kUnpackThreads + threadIdx.x;
  if (index >= count) return;
  const auto each = static_cast<uint32_t>(p.padded_inputs / 16);
  const int64_t output = index / each;
  const auto at = static_cast<int>(index % each * 16);
  float numbers[16];
  Rows::unpack(p, output, at, numbers);
  store_sixteen(static_cast<E*>(p.unpacked) + output * p.padded_inputs + at, numbers);
}

// The same product of the weight unpacked.
template <class E, class Rows>
GpuProduct unpacked(const GpuProduct& p, gpu::Device& device) {
  const int64_t count = p.columns * (p.padded_inputs / 16);
  launch(device, unpack_kernel<E, Rows>,
         gpu::dim3(static_cast<uint32_t>(blocks_of(count, kUnpackThreads))), kUnpackThreads, 0, p,
         static_cast<uint32_t>(count));
  GpuProduct dense = p;
  dense.weight = p.unpacked;
  dense.stored = type_of(p.in.dtype);
  return dense;
}

}  // namespace
}  // namespace sdcore::gemm
