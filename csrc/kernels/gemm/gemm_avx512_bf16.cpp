// The tile kernel of 14 x 32 for AVX-512 BF16: products of bf16 pairs, summed in float32.
// GCC 12 takes the undefined pass-through operand of its own AVX-512 intrinsics for a mistake
// (PR105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "kernels/gemm/driver.h"
#include "kernels/gemm/vector_tile.h"
#include "simd/avx512.h"

namespace sdcore::gemm {
namespace {

struct Vector : simd::Avx512 {};

struct DotOp {
  using V = Vector;
  using F = V::F;
  static constexpr int unit = 2, subs = 1, block_steps = 16;
  static constexpr bool pairs = true, widens = false;
  static constexpr int64_t step_bytes(int panel) { return int64_t{2} * kStep * panel; }

  template <int>
  SDCORE_SIMD F a(const char* p) {
    return V::set(read<float>(p));
  }
  SDCORE_SIMD F a_last(const char* p) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(read<uint16_t>(p)));
  }
  SDCORE_SIMD F b(const char* step, int k, int j, int) {
    return V::load(reinterpret_cast<const float*>(step) + j * 256 + k * V::width);
  }
  SDCORE_SIMD F madd(F a, F b, F c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
};

}  // namespace

const Variant gemm_avx512_bf16dot =
    variant<VectorTile<DotOp, 14, 2>>("avx512_bf16dot", Isa::avx512_bf16, DType::bf16);

}  // namespace sdcore::gemm
