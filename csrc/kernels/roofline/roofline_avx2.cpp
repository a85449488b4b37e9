#include "simd/avx2.h"

#include "kernels/roofline/generic.h"

namespace sdcore::roofline {
namespace {

struct Vector : simd::Avx2 {};

struct Halves : Vector {
  using F = I;
  static constexpr int operations = 32;
  SDCORE_SIMD F set(float x) { return _mm256_set1_epi8(static_cast<char>(x * 2.0f)); }
  SDCORE_SIMD F madd(F a, F b, F c) { return dot_pairs(a, b, c); }
  SDCORE_SIMD float first(F x) { return static_cast<float>(_mm256_cvtsi256_si32(x)); }
};

// Of types of up to 5 bits.
struct Bytes : Halves {
  static constexpr int operations = 64;
  SDCORE_SIMD F madd(F a, F b, F c) {
    return dot_pairs(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1), c);
  }
};

}  // namespace

const Kernel kernel_avx2_f32 = vector_kernel<Float<Vector>, 12>("avx2 f32", Isa::avx2);
const Kernel kernel_avx2_int8 = vector_kernel<Bytes, 12>("avx2 int8", Isa::avx2);
const Kernel kernel_avx2_int16 = vector_kernel<Halves, 12>("avx2 int16", Isa::avx2);

}  // namespace sdcore::roofline
