// What is done to sums before they are stored, by all kernels of matrix products.
#pragma once

#include "kernels/gemm/gpu.h"
#include "kernels/gpu.cuh"

namespace sdcore::gemm {
namespace {

template <int n>
__device__ __forceinline__ void add(Values<n>& sums, const void* data, DType dtype, int64_t at) {
  const auto more = load<n>(data, dtype, at);
  SDCORE_UNROLL
  for (int i = 0; i < n; ++i) sums.v[i] += more.v[i];
}

// What comes after the bias and before the residual.
template <int n>
__device__ __forceinline__ void activate_biased(const GpuProduct& p, const Pixel& pixel,
                                                int channel, Values<n>& sums) {
  const Epilogue& e = p.epilogue;
  if (e.image_bias.data) {
    add(sums, e.image_bias.data, e.image_bias.dtype, pixel.n * e.image_bias.stride_n + channel);
  }
  activate(e.activation, sums);
}

// Adds what the epilogue adds to sums of neighbouring channels, whose bias is in them, and stores
// them.
template <int n>
__device__ __forceinline__ void finish_biased(const GpuProduct& p, const Pixel& pixel, int channel,
                                              Values<n>& sums) {
  const Epilogue& e = p.epilogue;
  activate_biased(p, pixel, channel, sums);
  if (e.residual.data) {
    add(sums, e.residual.data, e.residual.dtype, element(e.residual, pixel) + channel);
  }
  store<n>(p.out.data, p.out.dtype, element(p.out, pixel) + channel, sums);
}

template <int n>
__device__ __forceinline__ void finish(const GpuProduct& p, const Pixel& pixel, int column,
                                       Values<n> sums) {
  if (p.epilogue.bias) add(sums, p.epilogue.bias, DType::f32, column);
  finish_biased(p, pixel, column, sums);
}

// Values at `column` with their bias times gelu of their gates, which are kGateRun columns further,
// with theirs; and the channel that they are.
template <int n>
__device__ __forceinline__ Values<n> gate(const GpuProduct& p, int column, Values<n> sums,
                                          Values<n> gates, int& channel) {
  constexpr int kRun = static_cast<int>(kGateRun);
  channel = column / (2 * kRun) * kRun + column % kRun;
  if (p.epilogue.bias) {
    add(sums, p.epilogue.bias, DType::f32, channel);
    add(gates, p.epilogue.bias, DType::f32, p.out.c + channel);
  }
  SDCORE_UNROLL
  for (int i = 0; i < n; ++i) sums.v[i] *= activate(Activation::gelu, gates.v[i]);
  return sums;
}

template <int n>
__device__ __forceinline__ void finish_gated(const GpuProduct& p, const Pixel& pixel, int column,
                                             const Values<n>& sums, const Values<n>& gates) {
  int channel;
  Values<n> values = gate(p, column, sums, gates, channel);
  finish_biased(p, pixel, channel, values);
}

// A vector of sums at a column of a row, or a part of it.
__device__ __forceinline__ void finish_vector(const GpuProduct& p, const Pixel& pixel, int column,
                                              const float* from, bool whole_vectors) {
  const bool gated = p.epilogue.gated;
  if (gated && column % (2 * kVector) != 0) return;  // gates, which their values take with them
  if (whole_vectors) {
    const auto sums = load<kVector>(from, DType::f32, 0);
    if (gated) {
      finish_gated(p, pixel, column, sums, load<kVector>(from, DType::f32, kVector));
    } else {
      finish(p, pixel, column, sums);
    }
    return;
  }
  for (int k = 0; k < kVector && column + k < p.columns; ++k) {
    const auto sum = load<1>(from, DType::f32, k);
    if (gated) {
      finish_gated(p, pixel, column + k, sum, load<1>(from, DType::f32, kVector + k));
    } else {
      finish(p, pixel, column + k, sum);
    }
  }
}

// Sums of one part to where all parts are added up.
__device__ __forceinline__ void keep_part(const GpuProduct& p, uint32_t row, uint32_t rows,
                                          int column, const float* from) {
  const int64_t at = (static_cast<int64_t>(blockIdx.z) * rows + row) * p.columns + column;
  if (p.columns % kVector == 0) {
    return store<kVector>(p.partial, DType::f32, at, load<kVector>(from, DType::f32, 0));
  }
  for (int k = 0; k < kVector && column + k < p.columns; ++k) p.partial[at + k] = from[k];
}

// A tile of sums in shared memory to its place, by all threads of the block.
template <int tile_rows, int tile_columns, int threads>
__device__ __forceinline__ void finish_tile(const GpuProduct& p, const float* sums, int pitch,
                                            uint32_t first_row, uint32_t rows, int first_column,
                                            bool whole_vectors) {
  constexpr int kEach = tile_columns / kVector;
  for (int i = static_cast<int>(threadIdx.x); i < tile_rows * kEach; i += threads) {
    const uint32_t row = first_row + static_cast<uint32_t>(i / kEach);
    const int column = first_column + i % kEach * kVector;
    if (row >= rows || column >= p.columns) continue;
    const float* from = sums + i / kEach * pitch + i % kEach * kVector;
    if (p.parts > 1) {
      keep_part(p, row, rows, column, from);
      continue;
    }
    const Pixel pixel =
        pixel_at(row, static_cast<uint32_t>(p.out.h), static_cast<uint32_t>(p.out.w));
    finish_vector(p, pixel, column, from, whole_vectors);
  }
}

// The parts of a vector of columns, first to last, so that a sum is the same whatever runs when.
__device__ __forceinline__ Values<kVector> sum_of_parts(const GpuProduct& p, uint32_t row,
                                                        uint32_t rows, int column) {
  Values<kVector> sums = {};
  for (int part = 0; part < p.parts; ++part) {
    const int64_t at = (static_cast<int64_t>(part) * rows + row) * p.columns + column;
    if (p.columns % kVector == 0) {
      add(sums, p.partial, DType::f32, at);
      continue;
    }
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) {
      if (column + k < p.columns) sums.v[k] += p.partial[at + k];
    }
  }
  return sums;
}

// A thread takes a vector of columns, and with values that of their gates.
constexpr int kAddThreads = 256;

__global__ void __launch_bounds__(kAddThreads)
    add_parts_kernel(GpuProduct p, uint32_t rows, uint32_t count, bool whole_output) {
  const uint32_t index = blockIdx.x * kAddThreads + threadIdx.x;
  if (index >= count) return;
  float* own = reinterpret_cast<float*>(gpu::shared_memory()) + threadIdx.x * 2 * kVector;
  const int width = p.epilogue.gated ? 2 * kVector : kVector;
  const auto vectors = static_cast<uint32_t>((p.columns + width - 1) / width);
  const uint32_t row = index / vectors;
  const int column = static_cast<int>(index % vectors) * width;
  for (int i = 0; i < width; i += kVector) {
    store<kVector>(own + i, DType::f32, 0, sum_of_parts(p, row, rows, column + i));
  }
  const Pixel pixel = pixel_at(row, static_cast<uint32_t>(p.out.h), static_cast<uint32_t>(p.out.w));
  finish_vector(p, pixel, column, own, whole_output);
}

// Whether everything that the epilogue touches is there in whole vectors.
bool has_whole_output(const GpuProduct& p) {
  const View &residual = p.epilogue.residual, &image_bias = p.epilogue.image_bias;
  return is_vectorized(p.out) && (!residual.data || is_vectorized(residual)) &&
         (!image_bias.data || is_vectorized(image_bias));
}

void add_parts(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  const int64_t count = rows * blocks_of(p.columns, p.epilogue.gated ? 2 * kVector : kVector);
  launch(device, add_parts_kernel, gpu::dim3(static_cast<uint32_t>(blocks_of(count, kAddThreads))),
         kAddThreads, kAddThreads * 2 * kVector * sizeof(float), p, static_cast<uint32_t>(rows),
         static_cast<uint32_t>(count), has_whole_output(p));
}

// Rows of a tile of sums in shared memory to their places, where everything is there in whole
// vectors and what is added is of E; find(row, pixel) says where a row belongs, false if nowhere.
// What is added is fetched for some vectors before the first is finished.
template <int columns, int threads, class E, bool gated, class Find>
__device__ __forceinline__ void finish_vectors(const GpuProduct& p, const float* tile, int pitch,
                                               int first_row, int rows, int first_column,
                                               const Find& find) {
  constexpr int kTogether = 2, kWidth = gated ? 2 * kVector : kVector, kEach = columns / kWidth;
  const View& residual = p.epilogue.residual;
  const int count = rows * kEach;
  for (int first = static_cast<int>(threadIdx.x); first < count; first += kTogether * threads) {
    Pixel pixels[kTogether];
    bool present[kTogether];
    Words added[kTogether] = {};
    SDCORE_UNROLL
    for (int u = 0; u < kTogether; ++u) {
      const int i = first + u * threads, column = first_column + i % kEach * kWidth;
      present[u] = i < count && column < p.columns && find(first_row + i / kEach, pixels[u]);
      if (!present[u] || !residual.data) continue;
      const int channel = gated ? column / 2 : column;
      added[u] = *reinterpret_cast<const Words*>(static_cast<const E*>(residual.data) +
                                                 element(residual, pixels[u]) + channel);
    }
    SDCORE_UNROLL
    for (int u = 0; u < kTogether; ++u) {
      if (!present[u]) continue;
      const int i = first + u * threads, column = first_column + i % kEach * kWidth;
      const float* from = tile + (first_row + i / kEach) * pitch + i % kEach * kWidth;
      auto sums = load<kVector>(from);
      int channel = column;
      if constexpr (gated) {
        sums = gate(p, column, sums, load<kVector>(from + kVector), channel);
      } else if (p.epilogue.bias) {
        add(sums, p.epilogue.bias, DType::f32, column);
      }
      activate_biased(p, pixels[u], channel, sums);
      SDCORE_UNROLL
      for (int k = 0; k < kVector; ++k) {
        sums.v[k] += gpu::widen(E{static_cast<uint16_t>(added[u].w[k / 2] >> (k % 2 * 16))});
      }
      store<kVector>(p.out.data, p.out.dtype, element(p.out, pixels[u]) + channel, sums);
    }
  }
}

template <int columns, int threads, class E, class Find>
__device__ __forceinline__ void finish_rows(const GpuProduct& p, const float* tile, int pitch,
                                            int first_row, int rows, int first_column,
                                            const Find& find) {
  if (p.epilogue.gated) {
    finish_vectors<columns, threads, E, true>(p, tile, pitch, first_row, rows, first_column, find);
  } else {
    finish_vectors<columns, threads, E, false>(p, tile, pitch, first_row, rows, first_column, find);
  }
}

}  // namespace
}  // namespace sdcore::gemm
