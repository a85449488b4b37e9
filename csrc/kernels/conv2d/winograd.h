// Inside the room: 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(4x4, 3x3): a
// tile of 4 x 4 outputs from a patch of 6 x 6 inputs takes 36 products a channel in place of 144.
// Both are moved to 36 points (values of polynomials at 0, ±3/4, ±3/2 and infinity), multiplied
// there as 36 matrix products, and moved back.
//
//   A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks (arXiv:1509.09308)
//
// The points are not the paper's 0, ±1, ±2: these have a third less rounding error to carry (1.7
// times that of a plain sum in place of 4 times, 320 channels), and are exact in binary.
//
// Patches are moved once a round of tiles, weights once a panel and group of tiles, from the same
// panels that the plain product reads; nothing is kept but those. The files of each instruction set
// include this too, so that it holds only plain data.
#pragma once

#include "kernels/conv2d/conv2d.h"
#include "kernels/gemm/engine.h"

namespace sdcore::winograd {

inline constexpr int64_t kTile = 4, kPatch = 6, kPoints = kPatch * kPatch;
// Channels that are moved and multiplied at a time.
inline constexpr int64_t kBlock = 64;
// Tiles that share a moved panel, about.
inline constexpr int64_t kGroup = 48;

// Arrays of one value a point are this many floats longer than they must be, so that the points of
// one value are not a power of two apart, where they would fight for the same lines of a cache.
inline constexpr int64_t kApart = 16;

// One convolution, and its present round of tiles.
struct Job {
  gemm::Product product;  // what panels and epilogues ask
  View in;
  int64_t channels = 0, pad_top = 0, pad_left = 0;
  int64_t tiles_w = 0, image_tiles = 0;  // tiles of a line, and of an image
  int64_t first = 0, count = 0;          // of the round
  int64_t groups = 1;
  float* patches = nullptr;  // [blocks of channels][points][tiles][kBlock]
  int64_t point_stride = 0;  // floats between two points

  int64_t blocks() const { return (channels + kBlock - 1) / kBlock; }
};

struct Kernel {
  Isa isa;
  int panel;
  size_t scratch_bytes;  // of a thread
  // Moves the patch of one tile of the round.
  void (*move_patch)(const Job& job, int64_t tile);
  // Multiplies one group of the round's tiles with one panel, and stores the outputs.
  void (*multiply)(const Job& job, int64_t panel, int64_t group, std::byte* scratch);
};

#define SDCORE_KERNEL(isa) extern const Kernel kernel_##isa;
#include "kernels/conv2d/kernels.inc"
#undef SDCORE_KERNEL

// Whether a convolution is done so at this level: shapes, dtype and level alone decide, and not the
// number of images, which must not change a result.
bool suits(const Conv2dArgs& args, Isa isa);
size_t workspace_bytes(const Conv2dArgs& args);
void conv2d(const Conv2dArgs& args, const KernelContext& context);

}  // namespace sdcore::winograd
