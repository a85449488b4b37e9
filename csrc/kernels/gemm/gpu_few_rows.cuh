// A product of so few rows that reading the weight is all there is to it, as of embeddings of
// timesteps: a warp sums one output of up to kFewRows rows.
#pragma once

#include "kernels/gemm/gpu_blocks.cuh"
#include "kernels/gemm/gpu_finish.cuh"

namespace sdcore::gemm {
namespace {

constexpr int kFewRows = 8, kFewThreads = 256;

template <class E, class Rows>
__global__ void __launch_bounds__(kFewThreads) few_rows_kernel(GpuProduct p, uint32_t rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t column = blockIdx.x * (kFewThreads / 32) + threadIdx.x / 32;
  if (column >= p.columns) return;  // a whole warp
  const uint32_t first = blockIdx.y * kFewRows;
  const int count = static_cast<int>(rows - first < kFewRows ? rows - first : kFewRows);
  const auto pixel_of_row = [&](int row) {
    return pixel_at(first + static_cast<uint32_t>(row), static_cast<uint32_t>(p.out.h),
                    static_cast<uint32_t>(p.out.w));
  };
  const E* inputs[kFewRows] = {};
  SDCORE_UNROLL
  for (int row = 0; row < kFewRows; ++row) {
    if (row < count) {
      inputs[row] = static_cast<const E*>(p.in.data) + element(p.in, pixel_of_row(row));
    }
  }
  float sums[kFewRows] = {};
  for (int i = lane * 16; i < p.in.c; i += 32 * 16) {
    float weight[16];
    Rows::unpack(p, column, i, weight);
    SDCORE_UNROLL
    for (int row = 0; row < kFewRows; ++row) {
      if (row >= count) break;
      SDCORE_UNROLL
      for (int half = 0; half < 16; half += kVector) {
        if (i + half >= p.in.c) break;
        const auto input = load<kVector>(inputs[row] + i + half);
        SDCORE_UNROLL
        for (int k = 0; k < kVector; ++k) sums[row] += input.v[k] * weight[half + k];
      }
    }
  }
  SDCORE_UNROLL
  for (int row = 0; row < kFewRows; ++row) {
    if (row >= count) break;
    const float sum = sum_of_warp(sums[row]);
    if (lane == row) finish<1>(p, pixel_of_row(row), static_cast<int>(column), {{sum}});
  }
}

// By the sizes of one image: a batch must not change a picture.
inline bool suits_few_rows(const GpuProduct& p) {
  return p.out.h * p.out.w <= 4 && p.kernel_h * p.kernel_w == 1 && p.stride == 1 &&
         p.in.h == p.out.h && p.in.w == p.out.w && !p.epilogue.gated && is_vectorized(p.in);
}

template <class E, class Rows>
void multiply_few_rows(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  const gpu::dim3 grid(static_cast<uint32_t>(blocks_of(p.columns, kFewThreads / 32)),
                       static_cast<uint32_t>(blocks_of(rows, kFewRows)));
  launch(device, few_rows_kernel<E, Rows>, grid, kFewThreads, 0, p, static_cast<uint32_t>(rows));
}

}  // namespace
}  // namespace sdcore::gemm
