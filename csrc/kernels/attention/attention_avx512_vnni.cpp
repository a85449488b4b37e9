// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake
// (PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/attention/integers.h"
#include "simd/avx512.h"

namespace sdcore::attention_kernels {
namespace {

struct Vector : simd::Avx512 {
  SDCORE_SIMD I dot_pairs(I x, I w, I sum) { return _mm512_dpwssd_epi32(sum, x, w); }
};

}  // namespace

const Kernel kernel_avx512_vnni = Integers<Vector, 4, 4, 128>::kernel(Isa::avx512_vnni);

}  // namespace sdcore::attention_kernels
