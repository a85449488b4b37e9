// Tile kernels in portable C++.
#include <cmath>

#include "kernels/gemm/driver.h"
#include "kernels/gemm/integer_tile.h"
#include "kernels/gemm/vector_tile.h"

namespace sdcore::gemm {
namespace {

struct Vector : simd::Scalar {
  template <int sub>
  SDCORE_SIMD F broadcast_bf16(uint32_t pair) {
    return to_float(std::bit_cast<std::array<bf16, 2>>(pair)[sub]);
  }
};

struct Integers : simd::Scalar {
  using I = int32_t;
  using Block = ActivationBlock;
  SDCORE_SIMD I load_bits(const void* p) {
    I x;
    std::memcpy(&x, p, sizeof(x));
    return x;
  }
  SDCORE_SIMD I broadcast(const void* p) { return load_bits(p); }
  SDCORE_SIMD I dot(I x, I w, I sum) {
    const auto a = std::bit_cast<std::array<uint8_t, 4>>(x);
    const auto b = std::bit_cast<std::array<int8_t, 4>>(w);
    for (size_t i = 0; i < 4; ++i) sum += a[i] * b[i];
    return sum;
  }
  SDCORE_SIMD void keep(I&) {}
  SDCORE_SIMD F to_float(I x) { return static_cast<float>(x); }
  SDCORE_SIMD bool unordered(F a, F b) { return std::isnan(a) || std::isnan(b); }
  SDCORE_SIMD int to_integers(const F (&x)[kStep], uint8_t* p) {
    int sum = 0;
    for (int i = 0; i < kStep; ++i) {
      p[i] = x[i] > 0.0f && x[i] < 256.0f ? static_cast<uint8_t>(std::nearbyint(x[i])) : uint8_t{0};
      sum += p[i];
    }
    return sum;
  }
  // The bits of a vector as the tile wants them.
  using Bits = I;
  SDCORE_SIMD void store_bits(void* p, Bits x) { std::memcpy(p, &x, sizeof(x)); }
  SDCORE_SIMD void transpose(Bits (&)[width]) {}
};

}  // namespace

const Variant gemm_generic_integers =
    variant<IntegerTile<Integers, 4, 8>>("generic_integers", Isa::generic, DType::bf16);
const Variant gemm_generic_f32 =
    variant<VectorTile<FloatOp<Vector>, 4, 8>>("generic_f32", Isa::generic, DType::f32);
const Variant gemm_generic_bf16 =
    variant<VectorTile<WidenOp<Vector>, 4, 8>>("generic_bf16", Isa::generic, DType::bf16);

}  // namespace sdcore::gemm
