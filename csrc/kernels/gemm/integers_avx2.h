// How numbers become integers in vectors of AVX2, for the Ops of integer_tile.h. Include only from
// files compiled for AVX2.
#pragma once

#include "kernels/gemm/activation_blocks.h"
#include "simd/avx2.h"

namespace sdcore::gemm {

struct Avx2Bytes : simd::Avx2 {
  using Block = ActivationBlock;
  SDCORE_SIMD bool unordered(F a, F b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
  }
  SDCORE_SIMD int to_integers(const F (&x)[4], uint8_t* p) {
    // Packing works within halves, so that quads end up in the order 0 2 4 6 1 3 5 7.
    const __m256i low = _mm256_packus_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
    const __m256i high = _mm256_packus_epi32(_mm256_cvtps_epi32(x[2]), _mm256_cvtps_epi32(x[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
    const __m256i sums = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
    const __m128i half =
        _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si32(half) + _mm_extract_epi16(half, 4);
  }
};

struct Avx2Halves : Avx2Bytes {
  using Block = WideActivationBlock;
  SDCORE_SIMD int to_integers(const F (&x)[4], int16_t* p) {
    I sum = {};
    for (int j = 0; j < 4; j += 2) {
      const __m256i a = _mm256_cvtps_epi32(x[j]), b = _mm256_cvtps_epi32(x[j + 1]);
      // Packing works within halves.
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + j * 8), words);
      sum = dot_pairs(words, _mm256_set1_epi16(1), sum);
    }
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_hadd_epi32(four, four);
    return _mm_cvtsi128_si32(_mm_hadd_epi32(four, four));
  }
};

}  // namespace sdcore::gemm
