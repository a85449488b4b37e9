// Tile kernels of 14 x 32 for AVX-512.
// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake
// (PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/gemm/driver.h"
#include "kernels/gemm/vector_tile.h"
#include "simd/avx512.h"

namespace sdcore::gemm {
namespace {

struct Vector : simd::Avx512 {
  template <int sub>
  SDCORE_SIMD F broadcast_bf16(uint32_t pair) {
    const __m512i both = _mm512_set1_epi32(static_cast<int>(pair));
    return _mm512_castsi512_ps(sub == 0 ? _mm512_slli_epi32(both, 16)
                                        : _mm512_and_si512(both, _mm512_set1_epi32(-65536)));
  }
};

}  // namespace

const Variant gemm_avx512_f32 =
    variant<VectorTile<FloatOp<Vector>, 14, 2>>("avx512_f32", Isa::avx512, DType::f32);
const Variant gemm_avx512_widened =
    variant<VectorTile<WidenedOp<Vector>, 14, 2>>("avx512_widened", Isa::avx512, DType::bf16);
const Variant gemm_avx512_bf16 =
    variant<VectorTile<WidenOp<Vector>, 14, 2>>("avx512_bf16", Isa::avx512, DType::bf16);

}  // namespace sdcore::gemm
