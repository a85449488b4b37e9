// The vector vocabulary of 8 lanes. Include only from files compiled for AVX2.
#pragma once

#include <immintrin.h>

#include "simd/scalar.h"

namespace sdcore::simd {

struct Avx2 {
  using F = __m256;
  static constexpr int width = 8;

  SDCORE_SIMD __m256i mask(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }

  SDCORE_SIMD F zero() { return _mm256_setzero_ps(); }
  SDCORE_SIMD F set(float x) { return _mm256_set1_ps(x); }
  SDCORE_SIMD F load(const float* p) { return _mm256_loadu_ps(p); }
  SDCORE_SIMD F widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  SDCORE_SIMD F load(const bf16* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  SDCORE_SIMD F load(const f16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  SDCORE_SIMD F load(const int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  SDCORE_SIMD void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  SDCORE_SIMD __m128i narrow(F x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_blendv_epi8(_mm256_add_epi32(bits, bias), quiet, nan);
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
  SDCORE_SIMD void store(bf16* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x));
  }
  SDCORE_SIMD F load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, mask(n)); }
  template <class T>
  SDCORE_SIMD F load_n(const T* p, int64_t n) {
    alignas(16) T lanes[width] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  SDCORE_SIMD void store_n(float* p, F x, int64_t n) { _mm256_maskstore_ps(p, mask(n), x); }
  SDCORE_SIMD void store_n(bf16* p, F x, int64_t n) {
    alignas(16) bf16 lanes[width];
    store(lanes, x);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
  }

  SDCORE_SIMD F add(F a, F b) { return _mm256_add_ps(a, b); }
  SDCORE_SIMD F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  SDCORE_SIMD F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  SDCORE_SIMD F div(F a, F b) { return _mm256_div_ps(a, b); }
  SDCORE_SIMD F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  SDCORE_SIMD F max(F a, F b) { return _mm256_max_ps(a, b); }
  SDCORE_SIMD F min(F a, F b) { return _mm256_min_ps(a, b); }
  SDCORE_SIMD F select_less(F a, F b, F x, F y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  SDCORE_SIMD F scale2(F x, F k) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  SDCORE_SIMD F split2(F x, F& fraction) {
    const F clamped = max(set(-127.0f), x);
    const F k = _mm256_floor_ps(clamped);
    fraction = sub(clamped, k);
    return k;
  }
  using Bits = __m256i;
  SDCORE_SIMD Bits load_bits(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  SDCORE_SIMD void store_bits(void* p, Bits x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  SDCORE_SIMD void transpose(Bits (&r)[width]) {
    Bits t[width];
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
      t[i + 4] = _mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; ++i) r[i] = t[i];
  }
  // Integers of 32 bits, or pairs of 16 bits.
  using I = __m256i;
  SDCORE_SIMD I broadcast(const void* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof(bits));
    return _mm256_set1_epi32(bits);
  }
  // Adds to each lane the products of its pairs. (Left to itself, GCC adds up products first, more
  // of them than there are registers.)
  SDCORE_SIMD I dot_pairs(I x, I w, I sum) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
    asm("" : "+x"(sum));
    return sum;
  }
  // Asks the compiler to have it in a register here.
  SDCORE_SIMD void keep(I& x) { asm("" : "+x"(x) : : "memory"); }
  SDCORE_SIMD F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  // To pairs of the nearest integers, `low` first. What does not fit is cut off.
  SDCORE_SIMD I to_pairs(F low, F high) {
    const I above = _mm256_slli_epi32(_mm256_cvtps_epi32(high), 16);
    return _mm256_blend_epi16(_mm256_cvtps_epi32(low), above, 0xaa);
  }
  // n bf16 of a row as pairs, and zeros after them, 0 < n < 2 * width.
  SDCORE_SIMD I load_pairs(const bf16* p, int64_t n) {
    alignas(32) bf16 some[2 * width] = {};
    for (int64_t i = 0; i < n; ++i) some[i] = p[i];
    return load_bits(some);
  }
  // Of two rows that were bf16, pairs of bf16; and the first or the second of every pair again.
  SDCORE_SIMD I interleave(F first, F second) {
    const I below = _mm256_srli_epi32(_mm256_castps_si256(first), 16);
    return _mm256_blend_epi16(below, _mm256_castps_si256(second), 0xaa);
  }
  SDCORE_SIMD F low(I x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  SDCORE_SIMD F high(I x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-65536)));
  }
  // The larger of numbers that are not negative, and NaN where either is.
  SDCORE_SIMD F larger(F a, F b) {
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  SDCORE_SIMD float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  SDCORE_SIMD float max_lane(F a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
};

}  // namespace sdcore::simd
