#include "simd/avx2.h"

#include "kernels/roofline/generic.h"

namespace sdcore::roofline {
namespace {

struct Vector : simd::Avx2 {};

}  // namespace

const Kernel kernel_avx2_f32 = vector_kernel<Float<Vector>, 12>("avx2 f32", Isa::avx2);

}  // namespace sdcore::roofline
