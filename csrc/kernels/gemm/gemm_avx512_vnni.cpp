// The tile kernels of 14 x 32 for AVX-512 VNNI: products of integers of 8 bits, and of 8 by 16.
// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake
// (PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/gemm/driver.h"
#include "kernels/gemm/integer_tile.h"
#include "simd/avx512.h"

namespace sdcore::gemm {
namespace {

struct Integers : simd::Avx512 {
  using Block = ActivationBlock;
  SDCORE_SIMD I dot(I x, I w, I sum) { return _mm512_dpbusd_epi32(sum, x, w); }
  SDCORE_SIMD bool unordered(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0; }
  SDCORE_SIMD int to_integers(const F (&x)[2], uint8_t* p) {
    const __m128i bytes[] = {_mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x[0])),
                             _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x[1]))};
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes[0]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), bytes[1]);
    const __m128i zero = _mm_setzero_si128();
    const __m128i sums = _mm_add_epi64(_mm_sad_epu8(bytes[0], zero), _mm_sad_epu8(bytes[1], zero));
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
  }
};

struct WideIntegers : Integers {
  using Block = WideActivationBlock;
  SDCORE_SIMD I dot(I x, I w, I sum) { return _mm512_dpwssd_epi32(sum, x, w); }
  SDCORE_SIMD int to_integers(const F (&x)[2], int16_t* p) {
    const __m512i a = _mm512_cvtps_epi32(x[0]), b = _mm512_cvtps_epi32(x[1]);
    // Packing works within quarters.
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi64(order, _mm512_packs_epi32(a, b)));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
  }
};

}  // namespace

const Variant gemm_avx512_vnni_integers =
    variant<IntegerTile<Integers, 14, 2>>("avx512_vnni_integers", Isa::avx512_vnni, DType::bf16);
const Variant gemm_avx512_vnni_wide_integers = variant<IntegerTile<WideIntegers, 14, 2>>(
    "avx512_vnni_wide_integers", Isa::avx512_vnni, DType::bf16);

}  // namespace sdcore::gemm
