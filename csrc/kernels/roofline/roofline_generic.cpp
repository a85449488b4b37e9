#include "kernels/roofline/generic.h"
#include "simd/scalar.h"

namespace sdcore::roofline {
namespace {

struct Vector : simd::Scalar {};

}  // namespace

const Kernel kernel_generic_f32 = vector_kernel<Float<Vector>, 8>("generic f32", Isa::generic);

}  // namespace sdcore::roofline
