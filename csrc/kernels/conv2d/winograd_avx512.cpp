// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake
// (PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/conv2d/winograd_floats.h"
#include "simd/avx512.h"

namespace sdcore::winograd {
namespace {

struct Vector : simd::Avx512 {};

}  // namespace

const Kernel kernel_avx512 =
    Winograd<Floats<gemm::VectorTile<gemm::FloatOp<Vector>, 14, 2>>>::kernel(Isa::avx512);

}  // namespace sdcore::winograd
