// out = epilogue(in · weightᵀ) by tensor cores in 16 bits, or plainly in f32. Rows are output
// pixels; a convolution gathers each row's pixels anew for every tap, and a linear layer is one of
// 1 x 1.
#pragma once

#include "kernels/gemm/gpu_blocks.cuh"
#include "kernels/gemm/gpu_few_rows.cuh"
#include "kernels/gemm/gpu_unpack.cuh"
#include "kernels/gemm/gpu_warpgroups.cuh"

namespace sdcore::gemm {
namespace {

// Tuning points: the two tiles, the number of stages, and when the small tile is taken.
template <int rows_of_block, int columns_of_block, int warps_down, int warps_across>
struct Tile {
  static constexpr int kRows = rows_of_block, kColumns = columns_of_block;
  static constexpr int kAcross = warps_across, kThreads = 32 * warps_down * warps_across;
  static constexpr int kWarpRows = kRows / warps_down, kWarpColumns = kColumns / warps_across;
  static constexpr int kStages = 3;
  static constexpr int kSumPitch = kColumns + 4;  // of the tile of sums in shared memory
};
using WideTile = Tile<128, 128, 2, 4>;
using NarrowTile = Tile<64, 64, 2, 2>;
// Fewer wide tiles than this leave a large GPU's multiprocessors without work.
constexpr int64_t kFewTiles = 96;

constexpr int kStep = static_cast<int>(kGpuStep);
// Numbers from one row to the next in shared memory: 80 bytes, so that eight rows of a fragment lie
// in different banks.
constexpr int kPitch = kStep + 8;

// Where an output pixel's taps begin.
struct Row {
  int64_t image = 0;  // offset of its image
  int y = 0, x = 0;   // of tap (0, 0), maybe outside
  bool present = false;
};

__device__ __forceinline__ Row row_at(const GpuProduct& p, uint32_t index, uint32_t rows) {
  if (index >= rows) return {};
  const Pixel pixel =
      pixel_at(index, static_cast<uint32_t>(p.out.h), static_cast<uint32_t>(p.out.w));
  return {pixel.n * p.in.stride_n, static_cast<int>(pixel.h) * p.stride - p.pad_top,
          static_cast<int>(pixel.w) * p.stride - p.pad_left, true};
}

// One step of the sum: channels [channel, channel + kStep) of one tap.
struct Step {
  int tap, channel;
};
__device__ __forceinline__ Step step_at(const GpuProduct& p, int index) {
  const int each = static_cast<int>(p.padded_inputs) / kStep;
  return {index / each, index % each * kStep};
}
__device__ __forceinline__ int step_count(const GpuProduct& p) {
  return static_cast<int>(p.padded_inputs) / kStep * p.kernel_h * p.kernel_w;
}

// The input's element that a row reads at this step; whether it exists is for `present`.
__device__ __forceinline__ int64_t input_at(const GpuProduct& p, const Row& row, const Step& step,
                                            bool& present) {
  const int y = row.y + step.tap / p.kernel_w, x = row.x + step.tap % p.kernel_w;
  present = row.present && y >= 0 && y < p.in.h && x >= 0 && x < p.in.w;
  return present ? row.image + y * p.in.stride_h + x * p.in.stride_w + step.channel : 0;
}

// Eight numbers of a row of the input into shared memory.
template <bool whole_vectors, class T>
__device__ __forceinline__ void fetch_input(const GpuProduct& p, const Row& row, const Step& step,
                                            int offset, T* to) {
  bool present;
  const int64_t at = input_at(p, row, step, present);
  const auto* from = static_cast<const T*>(p.in.data) + at + offset;
  const int64_t left = present ? p.in.c - step.channel - offset : 0;
  if constexpr (whole_vectors) {
    gpu::copy_async(to, left > 0 ? from : p.in.data, left > 0);
  } else {
    SDCORE_UNROLL
    for (int i = 0; i < kVector; ++i) to[i] = i < left ? from[i] : T{0};
  }
}

// How a tile of weights gets into shared memory, as the type that is multiplied: dense ones are
// copied ...
template <class E>
struct Dense {
  using Element = E;
  template <class T>
  __device__ static void fetch(const GpuProduct& p, const Step& step, int first, E* to) {
    const int64_t pitch = p.padded_inputs * p.kernel_h * p.kernel_w;
    const int64_t column = step.tap * p.padded_inputs + step.channel;
    for (int i = static_cast<int>(threadIdx.x); i < T::kColumns * 4; i += T::kThreads) {
      const int output = first + i / 4;
      const bool present = output < p.columns;
      const auto* from = static_cast<const E*>(p.weight) +
                         (present ? output * pitch + column + i % 4 * kVector : 0);
      gpu::copy_async(to + i / 4 * kPitch + i % 4 * kVector, from, present);
    }
  }
};

// ... and those in blocks are unpacked.
template <class E, class Format>
struct Blocks {
  using Element = E;
  template <class T>
  __device__ static void fetch(const GpuProduct& p, const Step& step, int first, E* to) {
    for (int i = static_cast<int>(threadIdx.x); i < T::kColumns * 2; i += T::kThreads) {
      const int output = first + i / 2;
      float numbers[16] = {};
      if (output < p.columns) {
        BlockRows<Format>::unpack(p, output, step.channel + i % 2 * 16, numbers);
      }
      store_sixteen(to + i / 2 * kPitch + i % 2 * 16, numbers);
    }
  }
};

template <class T, class Weights, bool whole_vectors>
__global__ void __launch_bounds__(T::kThreads)
    tensor_core_kernel(GpuProduct p, uint32_t rows, bool whole_output) {
  using E = typename Weights::Element;
  constexpr int kDown = T::kWarpRows / 16, kAcross = T::kWarpColumns / 8;
  constexpr int kFetches = T::kRows * 4 / T::kThreads;  // of the input, a thread and step
  constexpr int kStage = (T::kRows + T::kColumns) * kPitch;
  auto* shared = reinterpret_cast<E*>(gpu::shared_memory());
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const uint32_t first_row = blockIdx.x * T::kRows;
  const int first_column = static_cast<int>(blockIdx.y) * T::kColumns;
  // This block's part of the sum.
  const int all_steps = step_count(p), each = (all_steps + p.parts - 1) / p.parts;
  const int first_step = static_cast<int>(blockIdx.z) * each;
  const int steps = (all_steps - first_step < each ? all_steps - first_step : each);

  Row mine[kFetches];
  SDCORE_UNROLL
  for (int i = 0; i < kFetches; ++i) {
    mine[i] = row_at(p, first_row + static_cast<uint32_t>((thread + i * T::kThreads) / 4), rows);
  }
  const auto fetch = [&](int index) {
    const Step step = step_at(p, first_step + index);
    E* input = shared + index % T::kStages * kStage;
    SDCORE_UNROLL
    for (int i = 0; i < kFetches; ++i) {
      const int at = thread + i * T::kThreads;
      fetch_input<whole_vectors>(p, mine[i], step, at % 4 * kVector,
                                 input + at / 4 * kPitch + at % 4 * kVector);
    }
    Weights::template fetch<T>(p, step, first_column, input + T::kRows * kPitch);
  };

  float sums[kDown][kAcross][4] = {};
  for (int index = 0; index < T::kStages - 1; ++index) {
    if (index < steps) fetch(index);
    gpu::commit_copies();
  }
  const int warp_row = warp / T::kAcross * T::kWarpRows;
  const int warp_column = warp % T::kAcross * T::kWarpColumns;
  for (int index = 0; index < steps; ++index) {
    gpu::await_copies<T::kStages - 2>();
    gpu::wait_for_block();  // this step's tiles are there, and nobody reads those of the last one
    if (index + T::kStages - 1 < steps) fetch(index + T::kStages - 1);
    gpu::commit_copies();
    const E* input = shared + index % T::kStages * kStage + warp_row * kPitch;
    const E* weight = shared + index % T::kStages * kStage + (T::kRows + warp_column) * kPitch;
    SDCORE_UNROLL
    for (int k = 0; k < kStep; k += 16) {
      uint32_t a[kDown][4], b[kAcross][2];
      SDCORE_UNROLL
      for (int i = 0; i < kDown; ++i) {
        gpu::load_matrices(a[i], input + (i * 16 + lane % 16) * kPitch + k + lane / 16 * 8);
      }
      SDCORE_UNROLL
      for (int j = 0; j < kAcross; j += 2) {
        uint32_t pair[4];
        gpu::load_matrices(
            pair, weight + (j * 8 + lane / 16 * 8 + lane % 8) * kPitch + k + lane / 8 % 2 * 8);
        b[j][0] = pair[0];
        b[j][1] = pair[1];
        b[j + 1][0] = pair[2];
        b[j + 1][1] = pair[3];
      }
      SDCORE_UNROLL
      for (int i = 0; i < kDown; ++i) {
        SDCORE_UNROLL
        for (int j = 0; j < kAcross; ++j) gpu::mma<E>(sums[i][j], a[i], b[j]);
      }
    }
  }
  gpu::wait_for_block();  // nobody reads the tiles any more: the sums take their place
  auto* tile = reinterpret_cast<float*>(gpu::shared_memory());
  SDCORE_UNROLL
  for (int i = 0; i < kDown; ++i) {
    float* row = tile + (warp_row + i * 16 + lane / 4) * T::kSumPitch;
    SDCORE_UNROLL
    for (int j = 0; j < kAcross; ++j) {
      float* place = row + warp_column + j * 8 + lane % 4 * 2;
      place[0] = sums[i][j][0];
      place[1] = sums[i][j][1];
      place[8 * T::kSumPitch] = sums[i][j][2];
      place[8 * T::kSumPitch + 1] = sums[i][j][3];
    }
  }
  gpu::wait_for_block();
  finish_tile<T::kRows, T::kColumns, T::kThreads>(p, tile, T::kSumPitch, first_row, rows,
                                                  first_column, whole_output);
}

template <class T, class Weights, bool whole_vectors>
void launch_tile(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  constexpr size_t tiles =
      T::kStages * (T::kRows + T::kColumns) * kPitch * sizeof(typename Weights::Element);
  constexpr size_t sums = T::kRows * T::kSumPitch * sizeof(float);
  const gpu::dim3 grid(static_cast<uint32_t>(blocks_of(rows, T::kRows)),
                       static_cast<uint32_t>(blocks_of(p.columns, T::kColumns)),
                       static_cast<uint32_t>(p.parts));
  launch(device, tensor_core_kernel<T, Weights, whole_vectors>, grid, T::kThreads,
         tiles > sums ? tiles : sums, p, static_cast<uint32_t>(rows), has_whole_output(p));
  if (p.parts > 1) add_parts(p, rows, device);
}

template <class Weights>
void multiply_tiles(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  // The order of every sum is the same in both tiles, so a batch does not change a picture.
  const int64_t wide = blocks_of(rows, WideTile::kRows) * blocks_of(p.columns, WideTile::kColumns);
  if (!is_vectorized(p.in)) return launch_tile<NarrowTile, Weights, false>(p, rows, device);
  if (wide < kFewTiles) return launch_tile<NarrowTile, Weights, true>(p, rows, device);
  launch_tile<WideTile, Weights, true>(p, rows, device);
}

// float32: a thread sums a square of 4 x 4 of a tile of 64 x 64.
constexpr int kPlainTile = 64, kPlainThreads = 256, kPlainStep = 16;
constexpr int kPlainPitch = kPlainTile + 4;

__global__ void __launch_bounds__(kPlainThreads)
    plain_kernel(GpuProduct p, uint32_t rows, bool whole_output) {
  auto* input = reinterpret_cast<float*>(gpu::shared_memory());
  float* weight = input + kPlainStep * kPlainPitch;
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t first_row = blockIdx.x * kPlainTile;
  const int first_column = static_cast<int>(blockIdx.y) * kPlainTile;
  const int64_t pitch = p.padded_inputs * p.kernel_h * p.kernel_w;
  const Row mine = row_at(p, first_row + static_cast<uint32_t>(thread / 4), rows);
  const int output = first_column + thread / 4;

  float sums[4][4] = {};
  for (int index = 0; index < step_count(p) * (kStep / kPlainStep); ++index) {
    Step step = step_at(p, index / (kStep / kPlainStep));
    step.channel += index % (kStep / kPlainStep) * kPlainStep;
    bool present;
    const auto* from = static_cast<const float*>(p.in.data) + input_at(p, mine, step, present);
    SDCORE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int k = thread % 4 * 4 + i;
      input[k * kPlainPitch + thread / 4] = present && step.channel + k < p.in.c ? from[k] : 0.0f;
      weight[k * kPlainPitch + thread / 4] =
          output < p.columns
              ? static_cast<const float*>(
                    p.weight)[output * pitch + step.tap * p.padded_inputs + step.channel + k]
              : 0.0f;
    }
    gpu::wait_for_block();
    for (int k = 0; k < kPlainStep; ++k) {
      SDCORE_UNROLL
      for (int i = 0; i < 4; ++i) {
        SDCORE_UNROLL
        for (int j = 0; j < 4; ++j) {
          sums[i][j] += input[k * kPlainPitch + thread / 16 * 4 + i] *
                        weight[k * kPlainPitch + thread % 16 * 4 + j];
        }
      }
    }
    gpu::wait_for_block();
  }
  auto* tile = reinterpret_cast<float*>(gpu::shared_memory());  // after the last wait
  SDCORE_UNROLL
  for (int i = 0; i < 4; ++i) {
    SDCORE_UNROLL
    for (int j = 0; j < 4; ++j) {
      tile[(thread / 16 * 4 + i) * kPlainPitch + thread % 16 * 4 + j] = sums[i][j];
    }
  }
  gpu::wait_for_block();
  finish_tile<kPlainTile, kPlainTile, kPlainThreads>(p, tile, kPlainPitch, first_row, rows,
                                                     first_column, whole_output);
}

void multiply_plainly(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  const gpu::dim3 grid(static_cast<uint32_t>(blocks_of(rows, kPlainTile)),
                       static_cast<uint32_t>(blocks_of(p.columns, kPlainTile)));
  constexpr size_t shared = kPlainTile * kPlainPitch * sizeof(float);  // of the sums, the larger
  launch(device, plain_kernel, grid, kPlainThreads, shared, p, static_cast<uint32_t>(rows),
         has_whole_output(p));
}

// With the weight as `Weights` fetches and as `Rows` reads it.
template <class Weights, class Rows>
void multiply_as(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  using E = typename Weights::Element;
  if (suits_few_rows(p)) return multiply_few_rows<E, Rows>(p, rows, device);
  if (!suits_warpgroups(p, device)) return multiply_tiles<Weights>(p, rows, device);
  if (p.stored == type_of(p.in.dtype)) return multiply_by_warpgroups<E>(p, device);
  multiply_by_warpgroups<E>(unpacked<E, Rows>(p, device), device);
}

template <class E, class Format>
void multiply_blocks(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  multiply_as<Blocks<E, Format>, BlockRows<Format>>(p, rows, device);
}

template <class E>
void multiply_halves(const GpuProduct& p, int64_t rows, gpu::Device& device) {
  switch (p.stored) {
    case Type::q8_0:
      return multiply_blocks<E, Q8_0>(p, rows, device);
    case Type::q4_0:
      return multiply_blocks<E, Q4_0>(p, rows, device);
    case Type::q4_K:
      return multiply_blocks<E, Q4_K>(p, rows, device);
    case Type::q5_K:
      return multiply_blocks<E, Q5_K>(p, rows, device);
    case Type::q6_K:
      return multiply_blocks<E, Q6_K>(p, rows, device);
    default:
      return multiply_as<Dense<E>, DenseRows<E>>(p, rows, device);
  }
}

void multiply(const GpuProduct& p, gpu::Device& device) {
  const int64_t rows = p.out.pixels();
  if (rows == 0) return;
  require(rows < INT32_MAX, ErrorKind::invalid_argument, "[gemm] ", rows,
          " rows are too many for one kernel");
  if (p.in.dtype == DType::f32) return multiply_plainly(p, rows, device);
  with_half(p.in.dtype, [&](auto element) { multiply_halves<decltype(element)>(p, rows, device); });
}

constexpr GpuKernel kGpuKernel = {gpu::kBackend, multiply};

}  // namespace
}  // namespace sdcore::gemm
