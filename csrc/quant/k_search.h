// How the K formats and iq4 are made: the scales that leave the least squared error. `importance`
// weighs the squared errors of the numbers; null: they all weigh the same.
#pragma once

#include <cstdint>

#include "base/half.h"

namespace sdcore::quant {

// For 256 numbers:  x[i] ~ scale * scales[g] * quants[i] - minimum * minimums[g],  g = i / group
struct AffineShape {
  int group;   // 16 or 32
  int levels;  // the largest quant
  int most;    // the largest of scales and minimums
};
struct AffineBlock {
  f16 scale, minimum;
  uint8_t scales[16], minimums[16];
  uint8_t quants[256];
};
AffineBlock fit_affine(const float* values, const float* importance, AffineShape shape);

// For 256 numbers:  x[i] ~ scale * scales[g] * level[quants[i]],  g = i / group
struct SymmetricBlock {
  f16 scale;
  int8_t scales[16];
  uint8_t quants[256];
};
SymmetricBlock fit_q3_k(const float* values, const float* importance);    // level[q] = q - 4
SymmetricBlock fit_q6_k(const float* values, const float* importance);    // level[q] = q - 32
SymmetricBlock fit_iq4_xs(const float* values, const float* importance);  // kIq4Levels

// For 32 numbers:  x[i] ~ scale * kIq4Levels[quants[i]]
struct Iq4Group {
  f16 scale;
  uint8_t quants[32];
};
Iq4Group fit_iq4_nl(const float* values, const float* importance);

inline constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace sdcore::quant
