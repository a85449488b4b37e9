#include "simd/avx512.h"

#include "kernels/roofline/generic.h"

namespace sdcore::roofline {
namespace {

struct Vector : simd::Avx512 {};

}  // namespace

const Kernel kernel_avx512_f32 = vector_kernel<Float<Vector>, 24>("avx512 f32", Isa::avx512);

}  // namespace sdcore::roofline
