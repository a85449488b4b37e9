#include "kernels/conv2d/winograd_kernel.h"
#include "simd/avx2.h"

namespace sdcore::winograd {
namespace {

struct Vector : simd::Avx2 {};

}  // namespace

const Kernel kernel_avx2 =
    Winograd<gemm::VectorTile<gemm::FloatOp<Vector>, 6, 2>>::kernel(Isa::avx2);

}  // namespace sdcore::winograd
