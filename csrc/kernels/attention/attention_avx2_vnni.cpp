#include "kernels/attention/integers.h"
#include "simd/avx2.h"

namespace sdcore::attention_kernels {
namespace {

struct Vector : simd::Avx2 {
  SDCORE_SIMD I dot_pairs(I x, I w, I sum) { return _mm256_dpwssd_avx_epi32(sum, x, w); }
};

}  // namespace

const Kernel kernel_avx2_vnni = Integers<Vector, 4, 3, 128>::kernel(Isa::avx2_vnni, 32);

}  // namespace sdcore::attention_kernels
