#include "kernels/roofline/generic.h"
#include "simd/avx2.h"

namespace sdcore::roofline {
namespace {

struct Bytes {
  using F = __m256i;
  static constexpr int operations = 64;
  SDCORE_SIMD F set(float x) { return _mm256_set1_epi8(static_cast<char>(x * 2.0f)); }
  SDCORE_SIMD F madd(F a, F b, F c) { return _mm256_dpbusd_avx_epi32(c, a, b); }
  SDCORE_SIMD void keep(F& x) { asm("" : "+x"(x)); }
  SDCORE_SIMD float first(F x) { return static_cast<float>(_mm256_cvtsi256_si32(x)); }
};

struct Halves : Bytes {
  static constexpr int operations = 32;
  SDCORE_SIMD F madd(F a, F b, F c) { return _mm256_dpwssd_avx_epi32(c, a, b); }
};

}  // namespace

const Kernel kernel_avx2_vnni_int8 = vector_kernel<Bytes, 12>("avx2_vnni int8", Isa::avx2_vnni);
const Kernel kernel_avx2_vnni_int16 = vector_kernel<Halves, 12>("avx2_vnni int16", Isa::avx2_vnni);

}  // namespace sdcore::roofline
