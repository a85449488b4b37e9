// What one variant of the norm family provides.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "base/view.h"
#include "kernels/context.h"

namespace sdcore::norm {

// Pixels [begin, end) of one image in reading order; strides in elements.
template <class Data>
struct Pixels {
  Data* data;
  DType dtype;
  int64_t w, stride_h, stride_w;
};

// Sums of d and d^2 over the pixels of a chunk for each channel, d = x - shift[channel], where
// shift is the mean of a few pixels spread over the chunk. As those are 1/f of it, the shift is
// within sqrt(f) standard deviations of the mean, so the variance from these sums loses at most a
// factor f of float's precision, whatever the mean is, and commonly none.
struct ChunkSums {
  float *shift, *sum, *square;  // [c] each
};

// out = activation((x - shift) * scale + bias), each per channel.
struct Affine {
  const float *shift, *scale, *bias;
};

struct LayerNorm {
  const float *weight, *bias;  // [c], or null
  float eps;
};

struct RmsNorm {
  const float* weight;  // [size]
  int64_t size;
  float eps;
};

struct Kernel {
  Isa isa;
  void (*chunk_sums)(const Pixels<const void>& in, int64_t begin, int64_t end, int64_t c,
                     const ChunkSums& sums);
  void (*affine)(const Pixels<const void>& in, const Pixels<void>& out, int64_t begin, int64_t end,
                 int64_t c, const Affine& coefficients, Activation activation);
  void (*layer_norm)(const Pixels<const void>& in, const Pixels<void>& out, int64_t begin,
                     int64_t end, int64_t c, const LayerNorm& args);
  void (*rms_norm)(const Pixels<const void>& in, const Pixels<void>& out, int64_t begin,
                   int64_t end, int64_t c, const RmsNorm& args);
};

// How many pixels make the shift.
inline constexpr int64_t kShiftPixels = 16;

#define SDCORE_KERNEL(isa) extern const Kernel kernel_##isa;
#include "kernels/norm/kernels.inc"
#undef SDCORE_KERNEL

}  // namespace sdcore::norm
