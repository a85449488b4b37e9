// Tile kernels in portable C++.
#include "kernels/gemm/driver.h"
#include "kernels/gemm/vector_tile.h"

namespace sdcore::gemm {
namespace {

struct Vector : simd::Scalar {
  template <int sub>
  SDCORE_SIMD F broadcast_bf16(uint32_t pair) {
    return to_float(std::bit_cast<std::array<bf16, 2>>(pair)[sub]);
  }
};

}  // namespace

const Variant gemm_generic_f32 =
    variant<VectorTile<FloatOp<Vector>, 4, 8>>("generic_f32", Isa::generic, DType::f32);
const Variant gemm_generic_bf16 =
    variant<VectorTile<WidenOp<Vector>, 4, 8>>("generic_bf16", Isa::generic, DType::bf16);

}  // namespace sdcore::gemm
