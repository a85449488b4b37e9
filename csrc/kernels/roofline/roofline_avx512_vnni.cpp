#include "kernels/roofline/generic.h"
#include "simd/avx512.h"

namespace sdcore::roofline {
namespace {

struct Dot {
  using F = __m512i;
  static constexpr int operations = 128;
  SDCORE_SIMD F zero() { return _mm512_setzero_si512(); }
  SDCORE_SIMD F set(float x) { return _mm512_set1_epi8(static_cast<char>(x * 2.0f)); }
  SDCORE_SIMD F madd(F a, F b, F c) { return _mm512_dpbusd_epi32(c, a, b); }
  SDCORE_SIMD float first(F x) { return static_cast<float>(_mm512_cvtsi512_si32(x)); }
};

}  // namespace

const Kernel kernel_avx512_int8 = vector_kernel<Dot, 24>("avx512 int8", Isa::avx512_vnni);

}  // namespace sdcore::roofline
