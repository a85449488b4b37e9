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
// At the points there are float32 numbers (winograd_floats.h), or for images in bf16, where a level
// has the instructions, 16-bit integers (winograd_integers.h).
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
// Arrays of one value a point are this many bytes longer than they must be, so that the points of
// one value are not a power of two apart, where they would fight for the same lines of a cache.
inline constexpr int64_t kApart = 64;

// One convolution, and its present round of tiles.
struct Job {
  gemm::Product product;  // what panels and epilogues ask
  View in;
  int64_t channels = 0, pad_top = 0, pad_left = 0;
  int64_t tiles_w = 0, image_tiles = 0;  // tiles of a line, and of an image
  int64_t first = 0, count = 0;          // of the round
  int64_t groups = 1;
  std::byte* patches = nullptr;  // [blocks of channels][points][tiles][kBlock]
  int64_t point_stride = 0;      // elements between two points
  float* scales = nullptr;       // of integers: [blocks][tiles]
  const float* norms = nullptr;  // of integers: PackedWeight::norms

  int64_t blocks() const { return (channels + kBlock - 1) / kBlock; }
  template <class Element>
  Element* patches_at(int64_t block, int64_t point, int64_t tile) const {
    return reinterpret_cast<Element*>(patches) + (block * kPoints + point) * point_stride +
           tile * kBlock;
  }
  float* scales_at(int64_t block, int64_t tile) const { return scales + block * count + tile; }
};

struct Kernel {
  Isa isa;
  bool integers;  // for images in bf16; the others multiply float32
  int panel;
  int64_t group;  // tiles that share a moved panel, at most
  int64_t element_bytes;
  size_t scratch_bytes;  // of a thread
  // Of integers: the norms of a panel's outputs (weight_norms). Of the job only what is known of
  // the weight counts.
  void (*measure)(const Job& job, int64_t panel, float* norms);
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
bool suits(DType dtype, Isa isa);  // those that are large enough
bool multiplies_integers(DType dtype, Isa isa);
// For integers, each output's largest norm of the weights of kBlock channels at any point; nothing
// where a weight is not multiplied so.
std::vector<float> weight_norms(const PackedWeight& weight, const KernelContext& context);
size_t workspace_bytes(const Conv2dArgs& args, Isa isa);
void conv2d(const Conv2dArgs& args, const KernelContext& context);

}  // namespace sdcore::winograd
