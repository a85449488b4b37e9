// The tile kernel of the vector instruction sets: a block of sums in registers; each value of A is
// broadcast and multiplied with a row of the panel. Included only from files of one instruction
// set.
//
// An Op says what one multiplication takes:
//   unit, subs      channels that 4 bytes of A hold; multiplications they are spread over
//   a<sub>(p)       those 4 bytes, broadcast and widened
//   a_last(p)       the last channel alone, where a unit is two and their number is odd
//   b(step, k, j)   vector j of the panel for multiplication k of a step
#pragma once

#include <array>
#include <cstring>
#include <utility>

#include "kernels/gemm/epilogue.h"

namespace sdcore::gemm {

template <class Op, int max_rows, int panel_vectors>
struct VectorTile {
  using V = typename Op::V;
  using F = typename V::F;
  static constexpr int rows = max_rows;
  static constexpr int panel = panel_vectors * V::width;
  static constexpr int group = 1;
  static constexpr bool equal_tiles = false;
  static constexpr bool pairs = Op::pairs;
  static constexpr bool whole_steps = false, integers = false, widens = Op::widens;
  static constexpr int block_steps = Op::block_steps, long_block_steps = Op::block_steps;

  explicit VectorTile(int) {}

  void multiply(const Tile* tiles, int64_t, const Tile*, int64_t row_bytes, const Step* steps,
                int64_t count, const char* b, Ahead, int64_t, float* sums, bool accumulate,
                Pending<V, panel>& pending) const {
    pending.some(pending.left());
    static constexpr auto kernels = make_table(std::make_integer_sequence<int, max_rows>());
    kernels[static_cast<size_t>(tiles->rows - 1)](tiles->a, row_bytes, steps, count, b, sums,
                                                  accumulate);
  }

 private:
  using Function = void (*)(const char*, int64_t, const Step*, int64_t, const char*, float*, bool);

  template <int... i>
  static constexpr std::array<Function, sizeof...(i)> make_table(std::integer_sequence<int, i...>) {
    return {&tile<i + 1>...};
  }

  // Rows are addressed from a pointer for every five, so that x86's scaled addresses reach them.
  template <int R>
  SDCORE_SIMD const char* row(const char* const (&bases)[(max_rows + 4) / 5], int64_t row_bytes) {
    return bases[R / 5] + (R % 5) * row_bytes;
  }

  template <int R>
  static void tile(const char* a, int64_t row_bytes, const Step* steps, int64_t count,
                   const char* b, float* sums, bool accumulate) {
    F sum[R][panel_vectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < panel_vectors; ++j) {
        sum[r][j] = accumulate ? V::load(sums + r * panel + j * V::width) : V::zero();
      }
    }
    for (int64_t s = 0; s < count; ++s, b += Op::step_bytes(panel)) {
      const char* p = a + steps[s].offset;
      const int channels = steps[s].channels;
      int k = 0;
      for (; k < channels / Op::unit; ++k, p += 4) {
        add<R>(p, row_bytes, b, k * Op::subs, sum,
               [](const char* x) { return Op::template a<0>(x); });
        if constexpr (Op::subs == 2) {
          add<R>(p, row_bytes, b, k * 2 + 1, sum,
                 [](const char* x) { return Op::template a<1>(x); });
        }
      }
      if (Op::unit == 2 && channels % 2) {
        add<R>(p, row_bytes, b, k * Op::subs, sum, [](const char* x) { return Op::a_last(x); });
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < panel_vectors; ++j) V::store(sums + r * panel + j * V::width, sum[r][j]);
    }
  }

  template <int R, class Load>
  SDCORE_SIMD void add(const char* p, int64_t row_bytes, const char* b, int k,
                       F (&sum)[R][panel_vectors], Load load) {
    F w[panel_vectors];
#pragma GCC unroll 8
    for (int j = 0; j < panel_vectors; ++j) w[j] = Op::b(b, k, j, panel);
    const char* bases[] = {p, p + 5 * row_bytes, p + 10 * row_bytes};
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const F x = load(bases[r / 5] + (r % 5) * row_bytes);
#pragma GCC unroll 8
      for (int j = 0; j < panel_vectors; ++j) sum[r][j] = Op::madd(x, w[j], sum[r][j]);
    }
  }
};

template <class T>
SDCORE_SIMD T read(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// float32 by float32.
template <class Vector>
struct FloatOp {
  using V = Vector;
  using F = typename V::F;
  static constexpr int unit = 1, subs = 1, block_steps = 8;
  static constexpr bool pairs = false, widens = false;
  static constexpr int64_t step_bytes(int panel) { return int64_t{4} * kStep * panel; }

  template <int>
  SDCORE_SIMD F a(const char* p) {
    return V::set(read<float>(p));
  }
  SDCORE_SIMD F a_last(const char*) { return V::zero(); }
  SDCORE_SIMD F b(const char* step, int k, int j, int panel) {
    return V::load(reinterpret_cast<const float*>(step) + k * panel + j * V::width);
  }
  SDCORE_SIMD F madd(F a, F b, F c) { return V::fma(a, b, c); }
};

// bf16 by weights rounded to bf16, both widened to float32: A once, before it is read.
template <class Vector>
struct WidenedOp : FloatOp<Vector> {
  static constexpr bool widens = true;
};

// The same, but A wherever it is read, as a convolution does for many taps.
template <class Vector>
struct WidenOp : FloatOp<Vector> {
  using V = Vector;
  using F = typename V::F;
  static constexpr int unit = 2, subs = 2;

  template <int sub>
  SDCORE_SIMD F a(const char* p) {
    return V::template broadcast_bf16<sub>(read<uint32_t>(p));
  }
  SDCORE_SIMD F a_last(const char* p) { return V::set(to_float(read<bf16>(p))); }
};

}  // namespace sdcore::gemm
