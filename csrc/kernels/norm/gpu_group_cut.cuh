// How group norms cut images among blocks, and the moments of groups over what was cut. What is cut
// how follows from the size of one image, and so does what is added to what, in which order.
#pragma once

#include <numeric>

#include "kernels/norm/gpu_common.cuh"

namespace sdcore::norm {
namespace {

// Tuning points, by thought, for the 132 multiprocessors of an H100.
constexpr int kLoads = 4;            // vectors that a thread has under way
constexpr int64_t kTileSlice = 64;   // channels of a slice in tiles, at least: 128 adjacent bytes
constexpr int64_t kWholeSlice = 16;  // channels of a slice that one block keeps, at least
constexpr int64_t kChunks = 528;     // of an image, of all slices together: four a multiprocessor

// Of a group over a chunk of an image: the mean and the sum of squared distances from it. Of one
// over the whole image, the mean and the variance.
struct alignas(8) Moments {
  float mean, squares;
};

// A slice is some whole groups that are whole vectors; a tile is as many of its pixels as a block
// reads at once. A chunk is every so many-th tile: so all blocks together read tiles in their
// order, the last first, and what writes begins with the tiles that were read last and are in the
// cache.
struct Cut {
  int pixels = 0, channels = 0;             // of an image; of a group
  int slices = 0, groups = 0, columns = 0;  // groups and vectors of a slice
  int rows = 0, turns = 0;  // pixels that a block takes one vector each of, and how often
  int tile = 0;             // pixels of one
  int tiles = 0, chunks = 0;
  int each = 0, longer = 0;  // tiles of each chunk, and how many chunks have one more

  Cut(const View& in, int in_groups, int64_t slice)
      : pixels(static_cast<int>(in.h * in.w)),
        channels(static_cast<int>(in.c / in_groups)),
        slices(static_cast<int>(in.c / slice)),
        groups(static_cast<int>(slice / channels)) {}

  void into_chunks(int pixels_of_tile, int64_t most_chunks) {
    tile = pixels_of_tile;
    tiles = static_cast<int>(blocks_of(pixels, tile));
    chunks = static_cast<int>(blocks_of(tiles, blocks_of(tiles, most_chunks)));
    each = tiles / chunks;
    longer = tiles % chunks;
  }
};

// Channels of the smallest slice, or 0 where vectors do not fit: one must not be of three groups.
inline int64_t smallest_slice(const View& in, int groups) {
  const int64_t channels = in.c / groups, slice = std::lcm(channels, int64_t{kVector});
  const bool fits = channels >= 4 && channels != 5 && slice <= int64_t{kThreads} * kVector;
  return fits && in.c % slice == 0 ? slice : 0;
}

// The cut for blocks that read vectors of pixels.
inline Cut cut_into_slices(const View& in, int groups, int64_t at_least) {
  const int64_t smallest = smallest_slice(in, groups);
  int64_t slice = smallest;
  while (slice < at_least && slice < in.c) {
    do slice += smallest;
    while (in.c % slice != 0);
  }
  if (slice > int64_t{kThreads} * kVector) slice = smallest;
  Cut cut(in, groups, slice);
  cut.columns = static_cast<int>(slice / kVector);
  cut.rows = kThreads / cut.columns;
  cut.turns = static_cast<int>(blocks_of(cut.pixels, cut.rows));
  return cut;
}
inline Cut cut_into_tiles(const View& in, int groups) {
  Cut cut = cut_into_slices(in, groups, kTileSlice);
  cut.into_chunks(cut.rows * kLoads, std::max<int64_t>(kChunks / cut.slices, 1));
  return cut;
}

// The cut for the kernels that take numbers one by one: a slice is a group, a chunk a tile.
inline Cut cut_into_groups(const View& in, int groups) {
  constexpr int64_t kShortest = 16, kMost = 64;
  Cut cut(in, groups, in.c / groups);
  const auto tile = static_cast<int>(std::max(kShortest, blocks_of(cut.pixels, kMost)));
  cut.into_chunks(tile, kMost);
  return cut;
}

// Pixels of a chunk; the last tile may be short.
__device__ __forceinline__ int pixels_of(const Cut& cut, int chunk) {
  const int last = cut.longer > 0 ? cut.longer - 1 : cut.chunks - 1;
  const int tiles = cut.each + (chunk < cut.longer ? 1 : 0);
  return tiles * cut.tile - (chunk == last ? cut.tiles * cut.tile - cut.pixels : 0);
}

// Where an image's moments of a group are, of all chunks.
__device__ __forceinline__ Moments* moments_of(const Cut& cut, Moments* all, uint32_t image,
                                               uint32_t slice, int group) {
  const auto groups = static_cast<uint32_t>(cut.groups);
  const uint32_t index =
      (image * static_cast<uint32_t>(cut.slices) + slice) * groups + static_cast<uint32_t>(group);
  return all + static_cast<int64_t>(index) * cut.chunks;
}

// By a warp: the mean and variance of a group over all of its chunks.
__device__ __forceinline__ Moments merged(const Cut& cut, const Moments* chunks) {
  const float origin = chunks[0].mean, channels = static_cast<float>(cut.channels);
  float sum = 0.0f, squares = 0.0f;
  for (int i = static_cast<int>(threadIdx.x % 32); i < cut.chunks; i += 32) {
    const Moments chunk = chunks[i];
    const float count = static_cast<float>(pixels_of(cut, i)) * channels;
    const float distance = chunk.mean - origin;
    sum += count * distance;
    squares += chunk.squares + count * distance * distance;
  }
  const float count = static_cast<float>(cut.pixels) * channels;
  const float distance = sum_of_warp(sum) / count;
  return {origin + distance, fmaxf(sum_of_warp(squares) / count - distance * distance, 0.0f)};
}
// By a warp: the same of a group of this block's slice, or what was given.
__device__ __forceinline__ Moments mean_and_variance(const GroupNormArgs& args, const Cut& cut,
                                                     Moments* all, int group) {
  const uint32_t image = blockIdx.z, slice = blockIdx.x;
  if (!args.moments.c) return merged(cut, moments_of(cut, all, image, slice, group));
  const auto* given = static_cast<const float*>(args.moments.data) + image * args.moments.stride_n;
  const int at = static_cast<int>(slice) * cut.groups + group;
  return {given[at], given[args.groups + at]};
}

__device__ __forceinline__ float inverse_deviation(float variance, float eps) {
  return 1.0f / sqrtf(variance + eps);
}

// A block a slice, some rows of blocks an image.
inline gpu::dim3 grid_of(const Cut& cut, int64_t rows, int64_t images) {
  return {static_cast<uint32_t>(cut.slices), static_cast<uint32_t>(rows),
          static_cast<uint32_t>(images)};
}

}  // namespace
}  // namespace sdcore::norm
