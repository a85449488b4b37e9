#include "kernels/roofline/generic.h"
#include "simd/avx512.h"

namespace sdcore::roofline {
namespace {

struct Dot : simd::Avx512 {
  static constexpr int operations = 64;
  SDCORE_SIMD F madd(F a, F b, F c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
  SDCORE_SIMD float first(F x) { return max_lane(x); }
};

}  // namespace

const Kernel kernel_avx512_bf16 = vector_kernel<Dot, 24>("avx512 bf16", Isa::avx512_bf16);

}  // namespace sdcore::roofline
