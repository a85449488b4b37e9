// The tile kernel that multiplies integers: activations of 8 bits by weights of 8 or fewer, or of
// 16 by 12 or fewer, each 32 of them with numbers of their own that turn their sum into float32.
// Included only from files of one instruction set.
//
//   x[i] = low + scale * q[i]                 0 <= q <= 255, of one row (ActivationBlock); or
//   x[i] = scale * q[i]                       |q| <= 32767 (WideActivationBlock)
//   w[i] = w_scale * p[i] + w_offset          -128 <= p <= 127, of one output; or
//   w[i] = w_scale * p[i]                     |p| <= 2047, if it was a float
//   sum x[i] w[i] = scale * (w_scale * sum q[i] p[i]) + low * sum w[i] + w_offset * scale * sum
//   q[i]
//
// An Op is a vector class that also has
//   I                         a vector of 32-bit integers
//   Block                     of activations
//   broadcast(p)              four bytes of a row
//   dot(x, w, sum)            adds to each lane the four products of its bytes, x without a sign;
//                             or the two products of its halves
//   keep(I&)                  asks the compiler to have it in a register here: left to itself, GCC
//                             writes sums to the stack in the middle of multiplying
//   to_float(I)
//   unordered(a, b)           whether any lane of either is NaN
//   to_integers(F (&)[], p)   32 numbers to the nearest integers that a block holds; their sum
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/gemm/activation_blocks.h"
#include "kernels/gemm/epilogue.h"
#include "quant/formats.h"

namespace sdcore::gemm {

template <class Op, int max_rows, int panel_vectors>
class IntegerTile {
 public:
  using V = Op;
  using F = typename Op::F;
  using I = typename Op::I;
  using Block = typename Op::Block;
  static constexpr int rows = max_rows;
  static constexpr int panel = panel_vectors * Op::width;
  static constexpr bool equal_tiles = false, pairs = false, whole_steps = false;
  static constexpr bool integers = true, widens = false;

  // Whether activations begin at a number of their own.
  static constexpr bool lows = requires(Block block) { block.low; };
  // 4 bytes of a row: of four channels or of two.
  static constexpr int64_t quads = sizeof(Block::values) / 4;
  // A step of a panel, in floats: scales, sums of weights where activations have lows, offsets
  // where weights have them, and [quad][output][4 bytes].
  static constexpr int64_t offsets_at = lows ? 2 * panel : panel;
  template <bool offsets>
  static constexpr int64_t quads_at = offsets_at + (offsets ? panel : 0);
  template <bool offsets>
  static constexpr int64_t step_floats = quads_at<offsets> + quads * panel;
  // About half of a first-level cache.
  static constexpr int group = 1, block_steps = 128 / quads, long_block_steps = block_steps;

  explicit IntegerTile(bool offsets) : offsets_(offsets) {}

  void multiply(const Tile* tiles, int64_t, const Tile*, int64_t row_bytes, const Step* steps,
                int64_t count, const char* b, Ahead, int64_t, float* sums, bool accumulate,
                Pending<V, panel>& pending) const {
    pending.some(pending.left());
    static constexpr auto plain = make_table<false>(std::make_integer_sequence<int, max_rows>());
    static constexpr auto shifted = make_table<true>(std::make_integer_sequence<int, max_rows>());
    const auto index = static_cast<size_t>(tiles->rows - 1);
    // Vectors, as they are read again: a call of memset cost a tile of few steps a tenth.
    for (int64_t i = 0; !accumulate && i < tiles->rows * panel; i += Op::width) {
      Op::store(sums + i, Op::zero());
    }
    (offsets_ ? shifted : plain)[index](tiles->a + steps[0].offset, row_bytes, count,
                                        reinterpret_cast<const float*>(b), sums);
  }

  // Unpacks `count` steps of a panel; the blocks of output o begin at blocks + o * row_bytes.
  template <class Format>
  static void unpack(const std::byte* blocks, int64_t row_bytes, int64_t outputs, int64_t begin,
                     int64_t count, float* out) {
    constexpr int64_t group_floats = kGroup * step_floats<quant::ScalesAndShifts<Format>>;
    for (int64_t s = 0; s < count; s += kGroup, out += group_floats) {
      const int64_t steps = count - s < kGroup ? count - s : kGroup;
      unpack_group<Format>(blocks, row_bytes, outputs, begin + s, steps, out);
    }
  }

  // Where activations have 16 bits, weights that are floats are packed as integers: the bytes of
  // a step of a panel.
  static constexpr int64_t packed_step_bytes = lows ? 0 : step_floats<false> * 4;
  static constexpr int kMostWeight = 2047;

  // Packs a step of a panel: 32 weights of each output, one output after another.
  static void pack_step(const float* rows, float* out) {
    static_assert(!lows && int64_t{32767} * kMostWeight * kStep < int64_t{1} << 31);
    alignas(64) int16_t words[panel][kStep];
    for (int64_t n = 0; n < panel; ++n, rows += kStep) {
      Numbers<Op> w(rows);
      out[n] = quantize_evenly<Op>(w, kMostWeight, words[n]).scale;
    }
    turn<quads, false>(words, 1, out + quads_at<false>);
  }

 private:
  using Function = void (*)(const char*, int64_t, int64_t, const float*, float*);
  // Steps that are unpacked together: the largest block of any type.
  static constexpr int64_t kGroup = kUnpack / kStep;

  template <bool offsets, int... i>
  static constexpr std::array<Function, sizeof...(i)> make_table(std::integer_sequence<int, i...>) {
    return {&tile<i + 1, offsets>...};
  }

  // Rows are addressed from a pointer for every five, so that x86's scaled addresses reach them.
  template <int R, bool offsets>
  static void tile(const char* a, int64_t row_bytes, int64_t count, const float* b, float* sums) {
    for (; count > 0; --count, a += sizeof(Block), b += step_floats<offsets>) {
      const char* bases[] = {a, a + 5 * row_bytes, a + 10 * row_bytes};
      I dot[R][panel_vectors];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < panel_vectors; ++j) dot[r][j] = I{};
      }
      const char* p = bases[0] + offsetof(Block, values);
      const float* weights = b + quads_at<offsets>;
#pragma GCC unroll 16
      for (int k = 0; k < quads; ++k, p += 4, weights += panel) {
        const char* at[] = {p, p + 5 * row_bytes, p + 10 * row_bytes};
        I w[panel_vectors];
#pragma GCC unroll 8
        for (int j = 0; j < panel_vectors; ++j) w[j] = Op::load_bits(weights + j * Op::width);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const I x = Op::broadcast(at[r / 5] + (r % 5) * row_bytes);
#pragma GCC unroll 8
          for (int j = 0; j < panel_vectors; ++j) dot[r][j] = Op::dot(x, w[j], dot[r][j]);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < panel_vectors; ++j) Op::keep(dot[r][j]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const auto* x = reinterpret_cast<const Block*>(bases[r / 5] + (r % 5) * row_bytes);
        const F scale = Op::set(x->scale);
#pragma GCC unroll 8
        for (int j = 0; j < panel_vectors; ++j) {
          float* sum = sums + r * panel + j * Op::width;
          const float* of = b + j * Op::width;
          F total = Op::load(sum);
          if constexpr (lows) total = Op::fma(Op::set(x->low), Op::load(of + panel), total);
          if constexpr (offsets) {
            total = Op::fma(Op::set(x->scaled_sum), Op::load(of + offsets_at), total);
          }
          const F product = Op::mul(Op::to_float(dot[r][j]), Op::load(of));
          Op::store(sum, Op::fma(scale, product, total));
        }
      }
    }
  }

  template <class Format>
  static void unpack_group(const std::byte* blocks, int64_t row_bytes, int64_t outputs,
                           int64_t begin, int64_t count, float* out) {
    alignas(64) int8_t quants[panel][kGroup * kStep];
    constexpr int64_t columns = std::max<int64_t>(kGroup, Op::width);  // whole squares of them
    alignas(64) float scales[panel][columns], offsets[panel][columns];
    constexpr int64_t groups = Format::block_size / kStep;
    constexpr bool shifts = quant::ScalesAndShifts<Format>;
    for (int64_t n = 0; n < panel; ++n) {
      if (n >= outputs) {
        std::memset(quants[n], 0, sizeof(quants[n]));
        std::memset(scales[n], 0, sizeof(scales[n]));
        std::memset(offsets[n], 0, sizeof(offsets[n]));
        continue;
      }
      const auto* block =
          reinterpret_cast<const typename Format::Block*>(blocks + n * row_bytes) + begin / groups;
      for (int64_t s = 0; s < count; s += groups, ++block) {
        if constexpr (shifts) {
          Format::integers(*block, quants[n] + s * kStep, scales[n] + s, offsets[n] + s);
        } else {
          Format::integers(*block, quants[n] + s * kStep, scales[n] + s);
        }
      }
    }
    if constexpr (quads == kStep / 4) {
      turn<quads, shifts>(quants, count, out + quads_at<shifts>);
    } else {
      alignas(64) int16_t words[panel][kGroup * kStep];
      for (int64_t n = 0; n < panel; ++n) std::copy_n(quants[n], count * kStep, words[n]);
      turn<quads, shifts>(words, count, out + quads_at<shifts>);
    }
    turn<1, shifts>(scales, count, out);
    if constexpr (shifts) turn<1, shifts>(offsets, count, out + offsets_at);
    for (int64_t s = 0; lows && s < count; ++s) add_up<shifts>(out + s * step_floats<shifts>);
  }

  // Rows hold `each` times 4 bytes a step, which become vectors of the panel at `out` and further
  // on. Squares of them are transposed in registers; a square may be of many steps.
  template <int64_t each, bool offsets, class Row>
  static void turn(const Row (&rows)[panel], int64_t count, float* out) {
    constexpr int64_t side = Op::width, stride = step_floats<offsets>;
    for (int64_t n = 0; n < panel; n += side) {
      for (int64_t k = 0; k < count * each; k += side) {
        typename Op::Bits square[side];
#pragma GCC unroll 16
        for (int64_t i = 0; i < side; ++i) {
          square[i] = Op::load_bits(reinterpret_cast<const std::byte*>(rows[n + i]) + k * 4);
        }
        Op::transpose(square);
        float* to = out + k / each * stride + k % each * panel + n;
#pragma GCC unroll 16
        for (int64_t i = 0; i < side; ++i) {
          if (k / each + i / each < count) {
            Op::store_bits(to + i / each * stride + i % each * panel, square[i]);
          }
        }
      }
    }
  }

  // The sum of each output's weights in a step.
  template <bool offsets>
  static void add_up(float* step) {
    constexpr char ones[] = {1, 1, 1, 1};
    const I one = Op::broadcast(ones);
    for (int64_t n = 0; n < panel; n += Op::width) {
      I sum = {};
      for (int64_t k = 0; k < kStep / 4; ++k) {
        sum = Op::dot(one, Op::load_bits(step + quads_at<offsets> + k * panel + n), sum);
      }
      F total = Op::zero();
      if constexpr (offsets)
        total = Op::mul(Op::set(float{kStep}), Op::load(step + offsets_at + n));
      Op::store(step + panel + n, Op::fma(Op::to_float(sum), Op::load(step + n), total));
    }
  }

  bool offsets_;
};

}  // namespace sdcore::gemm
