// The vector vocabulary at width 1: portable C++, and the meaning of the other widths. A kernel's
// algorithm is a template over one of these classes; generic code names the class as its parameter
// V.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/half.h"

#define SDCORE_SIMD [[gnu::always_inline]] static inline

namespace sdcore::simd {

struct Scalar {
  using F = float;  // a vector of float
  static constexpr int width = 1;

  SDCORE_SIMD F zero() { return 0.0f; }
  SDCORE_SIMD F set(float x) { return x; }
  SDCORE_SIMD F load(const float* p) { return *p; }
  SDCORE_SIMD F load(const bf16* p) { return to_float(*p); }
  SDCORE_SIMD F load(const f16* p) { return to_float(*p); }
  SDCORE_SIMD F load(const int8_t* p) { return static_cast<float>(*p); }
  SDCORE_SIMD void store(float* p, F x) { *p = x; }
  SDCORE_SIMD void store(bf16* p, F x) { *p = to_bf16(x); }
  // The first n lanes, 0 <= n <= width; the others read as zero and are not written.
  template <class T>
  SDCORE_SIMD F load_n(const T* p, int64_t n) {
    return n > 0 ? load(p) : 0.0f;
  }
  template <class T>
  SDCORE_SIMD void store_n(T* p, F x, int64_t n) {
    if (n > 0) store(p, x);
  }

  SDCORE_SIMD F add(F a, F b) { return a + b; }
  SDCORE_SIMD F sub(F a, F b) { return a - b; }
  SDCORE_SIMD F mul(F a, F b) { return a * b; }
  SDCORE_SIMD F div(F a, F b) { return a / b; }
  SDCORE_SIMD F fma(F a, F b, F c) { return a * b + c; }  // a*b + c
  // max and min give b when either is NaN, as x86 does: put the value that must carry NaN second.
  SDCORE_SIMD F max(F a, F b) { return a > b ? a : b; }
  SDCORE_SIMD F min(F a, F b) { return a < b ? a : b; }
  // Where a < b takes x, else y.
  SDCORE_SIMD F select_less(F a, F b, F x, F y) { return a < b ? x : y; }
  // x * 2^k for integral k in [-127, 127]; k = -127 gives 0. Adding 1.5 * 2^23 puts k into the low
  // bits.
  SDCORE_SIMD F scale2(F x, F k) {
    const uint32_t exponent = std::bit_cast<uint32_t>(k + 12582912.0f) - 0x4b400000u + 127u;
    return x * std::bit_cast<float>(exponent << 23);
  }
  // x < 128 as k + fraction with 0 <= fraction < 1, for scale2: below -127 (so for -inf) k is -127.
  SDCORE_SIMD F split2(F x, F& fraction) {
    const float clamped = max(-127.0f, x);
    const float k = std::floor(clamped);
    fraction = clamped - k;
    return k;
  }
  using Bits = uint32_t;  // a vector of anything of 32 bits
  SDCORE_SIMD Bits load_bits(const void* p) {
    Bits x;
    std::memcpy(&x, p, sizeof(x));
    return x;
  }
  SDCORE_SIMD void store_bits(void* p, Bits x) { std::memcpy(p, &x, sizeof(x)); }
  // Rows become columns.
  SDCORE_SIMD void transpose(Bits (&)[width]) {}
  SDCORE_SIMD float sum(F a) { return a; }
  SDCORE_SIMD float max_lane(F a) { return a; }
};

}  // namespace sdcore::simd
