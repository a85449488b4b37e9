#include "kernels/conv2d/winograd_integers.h"
#include "simd/avx2.h"

namespace sdcore::winograd {
namespace {

struct Vector : simd::Avx2 {
  SDCORE_SIMD I dot_pairs(I x, I w, I sum) { return _mm256_dpwssd_avx_epi32(sum, x, w); }
};

}  // namespace

const Kernel kernel_avx2_vnni = Winograd<Integers<Vector, 6, 2>>::kernel(Isa::avx2_vnni);

}  // namespace sdcore::winograd
