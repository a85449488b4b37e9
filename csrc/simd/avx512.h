// The vector vocabulary of 16 lanes. Include only from files compiled for AVX-512 or above.
#pragma once

// GCC 12 warns of its own _mm512_undefined (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "simd/scalar.h"

namespace sdcore::simd {

struct Avx512 {
  using F = __m512;
  static constexpr int width = 16;

  SDCORE_SIMD __mmask16 mask(int64_t n) {
    return static_cast<__mmask16>((1u << static_cast<unsigned>(n)) - 1u);
  }

  SDCORE_SIMD F zero() { return _mm512_setzero_ps(); }
  SDCORE_SIMD F set(float x) { return _mm512_set1_ps(x); }
  SDCORE_SIMD F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  SDCORE_SIMD F load(const float* p) { return _mm512_loadu_ps(p); }
  SDCORE_SIMD F load(const bf16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  SDCORE_SIMD F load(const f16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  SDCORE_SIMD F load(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }
  SDCORE_SIMD F load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  SDCORE_SIMD F load_n(const bf16* p, int64_t n) {
    return widen(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  SDCORE_SIMD F load_n(const f16* p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p));
  }

  // To bf16, in the upper half of each lane, with integer arithmetic: AVX-512 BF16's own conversion
  // flushes subnormals.
  SDCORE_SIMD __m512i round_upper(F x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_add_epi32(bits, bias);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  }
  SDCORE_SIMD __m256i narrow(F x) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_upper(x), 16));
  }
  // A cache line. Past the caches, it need not be read before it is written.
  SDCORE_SIMD void store_line(void* p, __m512i line, bool past_caches) {
    if (past_caches && reinterpret_cast<uintptr_t>(p) % 64 == 0) {
      _mm512_stream_si512(static_cast<__m512i*>(p), line);
    } else {
      _mm512_storeu_si512(p, line);
    }
  }
  // A row of two vectors.
  SDCORE_SIMD void store_all(float* p, const F (&x)[2], bool past_caches) {
    store_line(p, _mm512_castps_si512(x[0]), past_caches);
    store_line(p + width, _mm512_castps_si512(x[1]), past_caches);
  }
  SDCORE_SIMD void store_all(bf16* p, const F (&x)[2], bool past_caches) {
    const __m512i low = _mm512_srli_epi32(round_upper(x[0]), 16);
    const __m512i high = _mm512_srli_epi32(round_upper(x[1]), 16);
    // Packing works within quarters.
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    store_line(p, _mm512_permutexvar_epi64(order, _mm512_packus_epi32(low, high)), past_caches);
  }
  SDCORE_SIMD void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  SDCORE_SIMD void store(bf16* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
  }
  SDCORE_SIMD void store_n(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, mask(n), x); }
  SDCORE_SIMD void store_n(bf16* p, F x, int64_t n) {
    _mm256_mask_storeu_epi16(p, mask(n), narrow(x));
  }

  SDCORE_SIMD F add(F a, F b) { return _mm512_add_ps(a, b); }
  SDCORE_SIMD F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  SDCORE_SIMD F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  SDCORE_SIMD F div(F a, F b) { return _mm512_div_ps(a, b); }
  SDCORE_SIMD F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  SDCORE_SIMD F max(F a, F b) { return _mm512_max_ps(a, b); }
  SDCORE_SIMD F min(F a, F b) { return _mm512_min_ps(a, b); }
  SDCORE_SIMD F select_less(F a, F b, F x, F y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }
  SDCORE_SIMD F scale2(F x, F k) { return _mm512_scalef_ps(x, k); }
  // scalef rounds its exponent down by itself, and reduce gives 0 for -inf.
  SDCORE_SIMD F split2(F x, F& fraction) {
    fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    return x;
  }
  using Bits = __m512i;
  SDCORE_SIMD Bits load_bits(const void* p) { return _mm512_loadu_si512(p); }
  SDCORE_SIMD void store_bits(void* p, Bits x) { _mm512_storeu_si512(p, x); }
  SDCORE_SIMD void transpose(Bits (&r)[width]) {
    Bits t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
      t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
      t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
      t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
      r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
      r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
      r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
  }
  // Integers of 32 bits, or pairs of 16 bits.
  using I = __m512i;
  SDCORE_SIMD I broadcast(const void* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof(bits));
    return _mm512_set1_epi32(bits);
  }
  // Adds to each lane the products of its pairs.
  SDCORE_SIMD I dot_pairs(I x, I w, I sum) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w));
  }
  // Asks the compiler to have it in a register here.
  SDCORE_SIMD void keep(I& x) { asm("" : "+v"(x) : : "memory"); }
  SDCORE_SIMD F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  // To pairs of the nearest integers, `low` first. What does not fit is cut off.
  SDCORE_SIMD I to_pairs(F low, F high) {
    const I above = _mm512_slli_epi32(_mm512_cvtps_epi32(high), 16);
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_cvtps_epi32(low), above);
  }
  // n bf16 of a row as pairs, and zeros after them, 0 < n < 2 * width.
  SDCORE_SIMD I load_pairs(const bf16* p, int64_t n) {
    return _mm512_maskz_loadu_epi16((1u << static_cast<unsigned>(n)) - 1u, p);
  }
  // Of two rows that were bf16, pairs of bf16; and the first or the second of every pair again.
  SDCORE_SIMD I interleave(F first, F second) {
    const I below = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
    return _mm512_mask_blend_epi16(0xaaaaaaaau, below, _mm512_castps_si512(second));
  }
  SDCORE_SIMD F low(I x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  SDCORE_SIMD F high(I x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-65536)));
  }
  // The larger of numbers that are not negative, and NaN where either is.
  SDCORE_SIMD F larger(F a, F b) {
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
  SDCORE_SIMD float sum(F a) { return _mm512_reduce_add_ps(a); }
  SDCORE_SIMD float max_lane(F a) { return _mm512_reduce_max_ps(a); }
};

}  // namespace sdcore::simd
