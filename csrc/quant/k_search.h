// How the K formats are made: for a super-block of 256 numbers, the scales that leave the least
// squared error.
#pragma once

#include <cstdint>

#include "base/half.h"

namespace sdcore::quant {

// x[i] ~ scale * scales[g] * quants[i] - minimum * minimums[g],  g = i / 32
struct AffineBlock {
  f16 scale, minimum;
  uint8_t scales[8], minimums[8];  // 0 to 63
  uint8_t quants[256];             // 0 to levels
};
AffineBlock fit_affine(const float* values, int levels);

// x[i] ~ scale * scales[g] * (quants[i] - 32),  g = i / 16
struct SymmetricBlock {
  f16 scale;
  int8_t scales[16];
  uint8_t quants[256];  // 0 to 63
};
SymmetricBlock fit_symmetric(const float* values);

}  // namespace sdcore::quant
