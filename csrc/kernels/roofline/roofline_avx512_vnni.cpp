#include "kernels/roofline/generic.h"
#include "simd/avx512.h"

namespace sdcore::roofline {
namespace {

struct Bytes {
  using F = __m512i;
  static constexpr int operations = 128;
  SDCORE_SIMD F set(float x) { return _mm512_set1_epi8(static_cast<char>(x * 2.0f)); }
  SDCORE_SIMD F madd(F a, F b, F c) { return _mm512_dpbusd_epi32(c, a, b); }
  SDCORE_SIMD void keep(F& x) { asm("" : "+v"(x)); }
  SDCORE_SIMD float first(F x) { return static_cast<float>(_mm512_cvtsi512_si32(x)); }
};

struct Halves : Bytes {
  static constexpr int operations = 64;
  SDCORE_SIMD F madd(F a, F b, F c) { return _mm512_dpwssd_epi32(c, a, b); }
};

}  // namespace

const Kernel kernel_avx512_int8 = vector_kernel<Bytes, 24>("avx512 int8", Isa::avx512_vnni);
const Kernel kernel_avx512_int16 = vector_kernel<Halves, 24>("avx512 int16", Isa::avx512_vnni);

}  // namespace sdcore::roofline
