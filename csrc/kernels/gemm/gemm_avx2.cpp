// Tile kernels of 6 x 16 for AVX2.
#include "kernels/gemm/driver.h"
#include "kernels/gemm/integer_tile.h"
#include "kernels/gemm/integers_avx2.h"
#include "kernels/gemm/vector_tile.h"

namespace sdcore::gemm {
namespace {

struct Vector : simd::Avx2 {
  template <int sub>
  SDCORE_SIMD F broadcast_bf16(uint32_t pair) {
    const __m256i both = _mm256_set1_epi32(static_cast<int>(pair));
    return _mm256_castsi256_ps(sub == 0 ? _mm256_slli_epi32(both, 16)
                                        : _mm256_and_si256(both, _mm256_set1_epi32(-65536)));
  }
};

// Products of bytes are added to sums of 16 bits first, which hold those of types of up to 5 bits.
struct Integers : Avx2Bytes {
  static constexpr int most_weight = 31;
  SDCORE_SIMD I dot(I x, I w, I sum) {
    return dot_pairs(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1), sum);
  }
};

struct WideIntegers : Avx2Halves {
  SDCORE_SIMD I dot(I x, I w, I sum) { return dot_pairs(x, w, sum); }
};

}  // namespace

const Variant gemm_avx2_f32 =
    variant<VectorTile<FloatOp<Vector>, 6, 2>>("avx2_f32", Isa::avx2, DType::f32);
const Variant gemm_avx2_widened =
    variant<VectorTile<WidenedOp<Vector>, 6, 2>>("avx2_widened", Isa::avx2, DType::bf16);
const Variant gemm_avx2_bf16 =
    variant<VectorTile<WidenOp<Vector>, 6, 2>>("avx2_bf16", Isa::avx2, DType::bf16);
const Variant gemm_avx2_integers =
    variant<IntegerTile<Integers, 5, 2>>("avx2_integers", Isa::avx2, DType::bf16);
const Variant gemm_avx2_wide_integers =
    variant<IntegerTile<WideIntegers, 6, 2>>("avx2_wide_integers", Isa::avx2, DType::bf16);

}  // namespace sdcore::gemm
