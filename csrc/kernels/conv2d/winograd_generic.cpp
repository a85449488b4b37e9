#include "kernels/conv2d/winograd_floats.h"
#include "simd/scalar.h"

namespace sdcore::winograd {
namespace {

struct Vector : simd::Scalar {};

}  // namespace

const Kernel kernel_generic =
    Winograd<Floats<gemm::VectorTile<gemm::FloatOp<Vector>, 4, 8>>>::kernel(Isa::generic);

}  // namespace sdcore::winograd
