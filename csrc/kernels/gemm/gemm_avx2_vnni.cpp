// The tile kernels of 6 x 16 for AVX-VNNI: products of integers of 8 bits, and of 8 by 16.
#include "kernels/gemm/driver.h"
#include "kernels/gemm/integer_tile.h"
#include "kernels/gemm/integers_avx2.h"

namespace sdcore::gemm {
namespace {

struct Integers : Avx2Bytes {
  SDCORE_SIMD I dot(I x, I w, I sum) { return _mm256_dpbusd_avx_epi32(sum, x, w); }
};

struct WideIntegers : Avx2Halves {
  SDCORE_SIMD I dot(I x, I w, I sum) { return _mm256_dpwssd_avx_epi32(sum, x, w); }
};

}  // namespace

const Variant gemm_avx2_vnni_integers =
    variant<IntegerTile<Integers, 6, 2>>("avx2_vnni_integers", Isa::avx2_vnni, DType::bf16);
const Variant gemm_avx2_vnni_wide_integers = variant<IntegerTile<WideIntegers, 6, 2>>(
    "avx2_vnni_wide_integers", Isa::avx2_vnni, DType::bf16);

}  // namespace sdcore::gemm
