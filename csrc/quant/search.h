// What the searches for good scales share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"

namespace sdcore::quant {

// Four floats at a time: this much every processor can do.
using Vec [[gnu::vector_size(16)]] = float;

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline void store(Vec v, float* p) { std::memcpy(p, &v, sizeof(v)); }

inline float total(Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }

// The scale of scales: finite, and rounded away from zero so that the largest still fits, however
// small.
inline f16 unit_of(float value) {
  const float finite = std::clamp(value, -65504.0f, 65504.0f);
  f16 unit = to_f16(finite);
  if (std::fabs(to_float(unit)) < std::fabs(finite)) ++unit.bits;
  return unit;
}

}  // namespace sdcore::quant
