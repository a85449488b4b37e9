// The tile kernel of 14 x 32 for AVX-512 VNNI: products of 8-bit integers.
// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake
// (PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/gemm/driver.h"
#include "kernels/gemm/integer_tile.h"
#include "simd/avx512.h"

namespace sdcore::gemm {
namespace {

struct Integers : simd::Avx512 {
  using I = __m512i;
  SDCORE_SIMD I broadcast(const void* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }
  SDCORE_SIMD I dot(I x, I w, I sum) { return _mm512_dpbusd_epi32(sum, x, w); }
  SDCORE_SIMD void keep(I& x) { asm("" : "+v"(x) : : "memory"); }
  SDCORE_SIMD F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  SDCORE_SIMD bool unordered(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0; }
  SDCORE_SIMD int to_bytes(const F (&x)[2], uint8_t* p) {
    const __m128i bytes[] = {_mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x[0])),
                             _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x[1]))};
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes[0]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), bytes[1]);
    const __m128i zero = _mm_setzero_si128();
    const __m128i sums = _mm_add_epi64(_mm_sad_epu8(bytes[0], zero), _mm_sad_epu8(bytes[1], zero));
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
  }
};

}  // namespace

const Variant gemm_avx512_vnni_integers =
    variant<IntegerTile<Integers, 14, 2>>("avx512_vnni_integers", Isa::avx512_vnni, DType::bf16);

}  // namespace sdcore::gemm
