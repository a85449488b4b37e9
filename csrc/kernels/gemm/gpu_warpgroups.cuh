// Matrix products by warpgroups (wgmma, compute capability 9.0). A tile of rows is a patch of
// pixels, so that a step of the sum, 64 channels of one tap, is one box of the input, with zeros
// outside of the image, and one of the weight; the copy engine brings them stages ahead. Parts of
// one sum are computed by a cluster of blocks, which add them up through shared memory.
#pragma once

#include <algorithm>

#include "gpu/tensor_copies.cuh"
#include "gpu/warpgroups.cuh"
#include "kernels/gemm/gpu_finish.cuh"

namespace sdcore::gemm {
namespace {

// Sizes of a tile, stages, and blocks that share a multiprocessor. Tuning points: which there are.
template <int rows, int columns, int stages, int blocks>
struct GroupTile {
  static constexpr int kRows = rows, kColumns = columns, kStages = stages, kBlocks = blocks;
  static constexpr int kGroups = rows < 128 ? 1 : 2, kThreads = 128 * kGroups;
  static constexpr int kGroupRows = rows / kGroups, kParts = kGroupRows / 64;  // of 64 rows each
  static constexpr int kDepth = 64;  // of a step: 128 bytes of a row
  static constexpr int kInput = rows * kDepth, kStage = (rows + columns) * kDepth;
  static constexpr int kSumPitch = columns + 8;
  static constexpr size_t kTiles = static_cast<size_t>(stages) * kStage * 2;
  static constexpr size_t kSums = static_cast<size_t>(rows) * kSumPitch * sizeof(float);
  static constexpr size_t kBarriers = kTiles > kSums ? kTiles : kSums;  // where they are
  static constexpr size_t kShared =
      kBarriers + 2 * stages * sizeof(gpu::Barrier) + gpu::kSwizzleBytes;
};

// How rows are pixels: a tile is a patch of w x h pixels of n images, powers of two; where it is
// flat, rows are all pixels in reading order.
struct Patches {
  int w = 1, h = 1, n = 1;
  int across = 1, down = 1;  // of an image
  bool flat = false;
};

struct PatchAt {
  int x, y, n;
};
__device__ __forceinline__ PatchAt patch_at(const Patches& p, int index) {
  return {index % p.across * p.w, index / p.across % p.down * p.h,
          index / (p.across * p.down) * p.n};
}

// The pixel of a row of a tile; false where there is none.
__device__ __forceinline__ bool pixel_of(const View& out, const Patches& patches, const PatchAt& at,
                                         int row, Pixel& pixel) {
  if (patches.flat) {
    pixel = pixel_at(static_cast<uint32_t>(at.x + row), static_cast<uint32_t>(out.h),
                     static_cast<uint32_t>(out.w));
    return pixel.n < out.n;
  }
  pixel = {at.n + row / (patches.w * patches.h), at.y + row / patches.w % patches.h,
           at.x + row % patches.w};
  return pixel.n < out.n && pixel.h < out.h && pixel.w < out.w;
}

// What the blocks' shared memory holds while they multiply.
template <class T, class E>
struct Stages {
  E* tiles;
  gpu::Barrier *full, *empty;

  __device__ Stages() {
    std::byte* memory = gpu::aligned_shared_memory();
    tiles = reinterpret_cast<E*>(memory);
    full = reinterpret_cast<gpu::Barrier*>(memory + T::kBarriers);
    empty = full + T::kStages;
  }
  __device__ void init() const {
    for (int i = 0; i < T::kStages; ++i) {
      gpu::init_barrier(&full[i], 1);
      gpu::init_barrier(&empty[i], T::kThreads / 32);
    }
    gpu::publish_barriers();
  }
  __device__ E* input(int stage) const { return tiles + stage * T::kStage; }
  __device__ E* weight(int stage) const { return input(stage) + T::kInput; }
};

// The steps of this block's part of the sum.
struct Steps {
  int first, count;

  __device__ explicit Steps(const GpuProduct& p, int chunks) {
    const int all = p.kernel_h * p.kernel_w * chunks, each = (all + p.parts - 1) / p.parts;
    first = static_cast<int>(blockIdx.z) * each;
    count = all - first < each ? all - first : each;
  }
};

// Has the boxes of one step after the other copied; of one thread.
template <class T, class E>
class Copier {
 public:
  __device__ Copier(const GpuProduct& p, const gpu::TensorMap* input, const gpu::TensorMap* weight,
                    const PatchAt& at, int column, int chunks, int first)
      : p_(p),
        input_(input),
        weight_(weight),
        x_(at.x * p.stride - p.pad_left),
        y_(at.y * p.stride - p.pad_top),
        n_(at.n),
        column_(column),
        chunks_(chunks),
        chunk_(first % chunks),
        tap_x_(first / chunks % p.kernel_w),
        tap_y_(first / chunks / p.kernel_w) {}

  __device__ void copy(const Stages<T, E>& stages, int stage) {
    gpu::Barrier* full = &stages.full[stage];
    gpu::arrive_expecting(full, T::kStage * sizeof(E));
    gpu::copy_box(stages.input(stage), input_, chunk_ * T::kDepth, x_ + tap_x_, y_ + tap_y_, n_,
                  full);
    const int tap = tap_y_ * p_.kernel_w + tap_x_;
    const int at = tap * static_cast<int>(p_.padded_inputs) + chunk_ * T::kDepth;
    gpu::copy_box(stages.weight(stage), weight_, at, column_, 0, 0, full);
    if (++chunk_ < chunks_) return;
    chunk_ = 0;
    if (++tap_x_ < p_.kernel_w) return;
    tap_x_ = 0;
    ++tap_y_;
  }

 private:
  const GpuProduct& p_;
  const gpu::TensorMap *input_, *weight_;
  int x_, y_, n_, column_, chunks_, chunk_, tap_x_, tap_y_;
};

// The sums of a warpgroup's rows.
template <class T>
using GroupSums = float[T::kParts][T::kColumns / 2];

// The first step's products are not added to anything.
template <bool is_first, class T, class E>
__device__ __forceinline__ void multiply_step(const Stages<T, E>& stages, int stage, int group,
                                              GroupSums<T>& sums) {
  const E* input = stages.input(stage) + group * T::kGroupRows * T::kDepth;
  const E* weight = stages.weight(stage);
  gpu::begin_products();
  SDCORE_UNROLL
  for (int k = 0; k < T::kDepth; k += 16) {
    SDCORE_UNROLL
    for (int i = 0; i < T::kParts; ++i) {
      const uint64_t rows = gpu::tile_at(input + i * 64 * T::kDepth + k);
      if (is_first && k == 0) {
        gpu::multiply_first<E, T::kColumns>(sums[i], rows, gpu::tile_at(weight + k));
      } else {
        gpu::multiply<E, T::kColumns>(sums[i], rows, gpu::tile_at(weight + k));
      }
    }
  }
  gpu::commit_products();
}

template <class T, class E>
__device__ __forceinline__ void multiply_steps(const Stages<T, E>& stages, Copier<T, E>& copier,
                                               int steps, GroupSums<T>& sums) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int index = 0; index < T::kStages && index < steps; ++index) copier.copy(stages, index);
  }
  gpu::wait_for_warp();
  gpu::await_barrier(&stages.full[0], 0);
  multiply_step<true>(stages, 0, thread / 128, sums);
  for (int index = 1; index < steps; ++index) {
    const int stage = index % T::kStages, last = (index - 1) % T::kStages;
    gpu::await_barrier(&stages.full[stage], static_cast<uint32_t>(index / T::kStages) & 1);
    multiply_step<false>(stages, stage, thread / 128, sums);
    gpu::await_products<1>();  // those of the step before, whose stage is free then
    if (thread % 32 == 0) gpu::arrive(&stages.empty[last]);
    if (thread == 0 && index - 1 + T::kStages < steps) {
      gpu::await_barrier(&stages.empty[last], static_cast<uint32_t>((index - 1) / T::kStages) & 1);
      copier.copy(stages, last);
    }
    gpu::wait_for_warp();
  }
  gpu::await_products<0>();
}

struct alignas(8) Pair {
  float v[2];
};

template <class T>
__device__ __forceinline__ void keep_sums(const GroupSums<T>& sums, float* tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp / 4 * T::kGroupRows + warp % 4 * 16 + lane / 4;
  SDCORE_UNROLL
  for (int part = 0; part < T::kParts; ++part) {
    float* own = tile + (row + part * 64) * T::kSumPitch + lane % 4 * 2;
    SDCORE_UNROLL
    for (int j = 0; j < T::kColumns / 8; ++j) {
      SDCORE_UNROLL
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<Pair*>(own + i * 8 * T::kSumPitch + j * 8) = {
            {sums[part][4 * j + 2 * i], sums[part][4 * j + 2 * i + 1]}};
      }
    }
  }
}

// Adds up all parts' sums of these rows, first to last, in this block's tile.
template <class T>
__device__ __forceinline__ void add_parts_of(int parts, float* tile, int first_row, int rows) {
  constexpr int kEach = T::kColumns / 4;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kEach; i += T::kThreads) {
    float* at = tile + (first_row + i / kEach) * T::kSumPitch + i % kEach * 4;
    gpu::Quad sum = {};
    for (int part = 0; part < parts; ++part) {
      const gpu::Quad more = gpu::load_from(at, static_cast<uint32_t>(part));
      SDCORE_UNROLL
      for (int k = 0; k < 4; ++k) sum.v[k] += more.v[k];
    }
    *reinterpret_cast<gpu::Quad*>(at) = sum;
  }
}

template <class T, class E>
__global__ void __launch_bounds__(T::kThreads, T::kBlocks)
    warpgroup_kernel(const __grid_constant__ gpu::TensorMap input,
                     const __grid_constant__ gpu::TensorMap weight, GpuProduct p, Patches patches) {
  if constexpr (gpu::kHasWarpgroups) {
    const Stages<T, E> stages;
    const int chunks = (static_cast<int>(p.padded_inputs) + T::kDepth - 1) / T::kDepth;
    const PatchAt at = patch_at(patches, static_cast<int>(blockIdx.x));
    const int column = static_cast<int>(blockIdx.y) * T::kColumns;
    const Steps steps(p, chunks);
    if (threadIdx.x == 0) {
      gpu::prefetch(&input);
      gpu::prefetch(&weight);
      stages.init();
    }
    gpu::wait_for_block();

    GroupSums<T> sums;
    Copier<T, E> copier(p, &input, &weight, at, column, chunks, steps.first);
    multiply_steps(stages, copier, steps.count, sums);
    gpu::wait_for_block();  // nobody reads the tiles any more: the sums take their place
    auto* tile = reinterpret_cast<float*>(stages.tiles);
    keep_sums<T>(sums, tile);
    const int rows = T::kRows / p.parts, first_row = static_cast<int>(blockIdx.z) * rows;
    if (p.parts > 1) {
      gpu::wait_for_cluster();
      add_parts_of<T>(p.parts, tile, first_row, rows);
      gpu::meet_cluster();  // a block whose sums are still read must not end
    }
    gpu::wait_for_block();
    finish_rows<T::kColumns, T::kThreads, E>(
        p, tile, T::kSumPitch, first_row, rows, column,
        [&](int row, Pixel& pixel) { return pixel_of(p.out, patches, at, row, pixel); });
  }
}

// The patch of so many pixels that covers images with the fewest, the widest of these.
inline Patches patches_of(const GpuProduct& p, int rows) {
  const View &in = p.in, &out = p.out;
  const bool point = p.kernel_h * p.kernel_w == 1 && p.stride == 1 && p.pad_top == 0 &&
                     p.pad_left == 0 && in.h == out.h && in.w == out.w;
  if (point && in.stride_h == in.w * in.stride_w && in.stride_n == in.h * in.stride_h) {
    return {rows, 1, 1, static_cast<int>(blocks_of(out.pixels(), rows)), 1, true};
  }
  Patches best;
  int64_t fewest = INT64_MAX;
  for (int w = rows; w >= 1; w /= 2) {
    for (int h = rows / w; h >= 1; h /= 2) {
      const int n = rows / w / h;
      const int64_t across = blocks_of(out.w, w), down = blocks_of(out.h, h);
      const int64_t count = across * down * blocks_of(out.n, n);
      if (count >= fewest) continue;
      fewest = count;
      best = {w, h, n, static_cast<int>(across), static_cast<int>(down), false};
    }
  }
  return best;
}

// A stride of a dimension that has one place only may be anything; tensor maps want some.
inline uint64_t stride_of(int64_t numbers) {
  return numbers > 0 ? static_cast<uint64_t>(numbers) * 2 : 16;
}

inline gpu::TensorBox input_box(const GpuProduct& p, const Patches& patches, uint32_t depth) {
  const View& in = p.in;
  const auto size = [](int64_t x) { return static_cast<uint64_t>(x); };
  const auto box = [](int x) { return static_cast<uint32_t>(x); };
  const uint64_t pixel = stride_of(in.stride_w);
  if (patches.flat) {
    return {in.data,
            {size(in.c), size(in.pixels()), 1, 1},
            {pixel, pixel, pixel},
            {depth, box(patches.w), 1, 1},
            {1, 1, 1, 1}};
  }
  return {in.data,
          {size(in.c), size(in.w), size(in.h), size(in.n)},
          {pixel, stride_of(in.stride_h), stride_of(in.stride_n)},
          {depth, box(patches.w), box(patches.h), box(patches.n)},
          {1, box(p.stride), box(p.stride), 1}};
}

inline gpu::TensorBox weight_box(const GpuProduct& p, uint32_t depth, int columns) {
  const auto width = static_cast<uint64_t>(p.padded_inputs * p.kernel_h * p.kernel_w);
  return {p.weight,
          {width, static_cast<uint64_t>(p.columns), 1, 1},
          {width * 2, width * 2, width * 2},
          {depth, static_cast<uint32_t>(columns), 1, 1},
          {1, 1, 1, 1}};
}

template <class T, class E>
void launch_groups(const GpuProduct& p, gpu::Device& device) {
  const Patches patches = patches_of(p, T::kRows);
  const int64_t images = patches.flat ? 1 : blocks_of(p.out.n, patches.n);
  const gpu::dim3 grid(static_cast<uint32_t>(patches.across * patches.down * images),
                       static_cast<uint32_t>(blocks_of(p.columns, T::kColumns)),
                       static_cast<uint32_t>(p.parts));
  const gpu::dim3 cluster(1, 1, static_cast<uint32_t>(p.parts));
  gpu::launch_clusters(device, warpgroup_kernel<T, E>, grid, T::kThreads, T::kShared, cluster,
                       gpu::tensor_map(input_box(p, patches, T::kDepth), p.in.dtype),
                       gpu::tensor_map(weight_box(p, T::kDepth, T::kColumns), p.in.dtype), p,
                       patches);
}

// Parts of a sum, by the sizes of one image alone: a batch must not change a picture. Tuning
// points, from an H200 and two images: how many tiles of 128 x 160 an image may have for so many,
// and steps that are worth a part.
inline int cluster_parts(const GpuProduct& p) {
  constexpr int64_t kLeastSteps = 6;
  constexpr struct {
    int64_t parts, most_tiles;
  } kSplits[] = {{8, 4}, {4, 16}, {2, 102}};
  const int64_t steps = blocks_of(p.padded_inputs, 64) * p.kernel_h * p.kernel_w;
  const int64_t tiles = p.out.h * p.out.w * p.columns / (128 * 160);
  for (const auto& [parts, most_tiles] : kSplits) {
    const bool none_is_empty = blocks_of(steps, blocks_of(steps, parts)) == parts;
    if (tiles <= most_tiles && steps >= parts * kLeastSteps && none_is_empty) {
      return static_cast<int>(parts);
    }
  }
  return 1;
}

// What a tile costs: its area times what a step of it takes for that, and the steps that its
// beginning and end are worth, of which blocks that share a multiprocessor hide a part. Larger
// clusters leave multiprocessors over: four or eight must be neighbours. Tuning points, from an
// H200.
template <class T>
double cost_of(const GpuProduct& p, int multiprocessors, double step) {
  constexpr double kEnds = T::kBlocks > 1 ? 3 : 8;
  const Patches patches = patches_of(p, T::kRows);
  const int64_t images = patches.flat ? 1 : blocks_of(p.out.n, patches.n);
  const int64_t blocks =
      patches.across * patches.down * images * blocks_of(p.columns, T::kColumns) * p.parts;
  const int64_t at_once = p.parts > 2 ? (multiprocessors * 9 + 9) / 10 : multiprocessors;
  const int64_t steps = blocks_of(p.padded_inputs, T::kDepth) * p.kernel_h * p.kernel_w / p.parts;
  return static_cast<double>(blocks_of(blocks, at_once)) * T::kRows * T::kColumns * step *
         (static_cast<double>(steps) + kEnds);
}

// Whether this kernel does it: what it reads and writes are whole vectors, what it adds is of the
// type that is multiplied, and there are rows enough for a tile.
inline bool suits_warpgroups(const GpuProduct& p, const gpu::Device& device) {
  const Epilogue& e = p.epilogue;
  const bool same = !e.residual.data || e.residual.dtype == p.in.dtype;
  return device.architecture() == 90 && same && is_vectorized(p.in) && has_whole_output(p) &&
         p.columns % (2 * kVector) == 0 && p.stride <= 2 && p.out.h * p.out.w >= 16;
}

template <class E>
void multiply_by_warpgroups(GpuProduct p, gpu::Device& device) {
  struct Choice {
    double cost;
    void (*launch)(const GpuProduct&, gpu::Device&);
  };
  p.parts = cluster_parts(p);
  const auto choice = [&](auto tile, double step) {
    using T = decltype(tile);
    return Choice{cost_of<T>(p, device.multiprocessors(), step), launch_groups<T, E>};
  };
  const Choice choices[] = {
      choice(GroupTile<256, 128, 4, 1>{}, 1.0), choice(GroupTile<128, 160, 3, 2>{}, 1.1),
      choice(GroupTile<128, 128, 3, 2>{}, 1.25), choice(GroupTile<128, 80, 4, 2>{}, 1.35),
      choice(GroupTile<64, 80, 5, 2>{}, 1.8)};
  std::ranges::min_element(choices, {}, &Choice::cost)->launch(p, device);
}

}  // namespace
}  // namespace sdcore::gemm
