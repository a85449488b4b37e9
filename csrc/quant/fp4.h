// The 16 numbers of 4-bit floats (E2M1 of the OCP Microscaling specification, version 1.0), doubled
// so that they are integers, as mxfp4 and nvfp4 use them.
#pragma once

#include <cmath>

#include "quant/format.h"

namespace sdcore::quant {

inline constexpr int8_t kFp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Which of them, times the scale, is nearest; the first of equals. `error` is how far away it is.
[[gnu::always_inline]] inline uint8_t nearest_fp4(float value, float scale, float& error) {
  int best = 0;
  error = std::fabs(value);
  for (int i = 1; i < 16; ++i) {
    const float distance = std::fabs(scale * static_cast<float>(kFp4[i]) - value);
    best = distance < error ? i : best;
    error = std::min(error, distance);
  }
  return static_cast<uint8_t>(best);
}

}  // namespace sdcore::quant
