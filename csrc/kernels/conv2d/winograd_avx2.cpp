#include "kernels/conv2d/winograd_floats.h"
#include "kernels/conv2d/winograd_integers.h"
#include "simd/avx2.h"

namespace sdcore::winograd {
namespace {

struct Vector : simd::Avx2 {};

}  // namespace

const Kernel kernel_avx2_integers = Winograd<Integers<Vector, 6, 2>>::kernel(Isa::avx2);
const Kernel kernel_avx2 =
    Winograd<Floats<gemm::VectorTile<gemm::FloatOp<Vector>, 6, 2>>>::kernel(Isa::avx2);

}  // namespace sdcore::winograd
