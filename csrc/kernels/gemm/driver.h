// The loops around a tile kernel, and the packing of what it reads: once, over any kernel class.
// Included only from files of one instruction set, with classes from their unnamed namespaces.
//
// A kernel class has
//   V, rows, panel, group      vector class; rows of a tile, outputs of a panel, tiles a call
//   pairs                      panels hold bf16 pairs, else floats
//   integers                   multiplies integers (integer_tile.h), which blocks are unpacked to
//   widens                     reads rows of bf16 as floats, which they are copied to
//   stack                      if there: tiles of a stack, which it multiplies too
//   gates                      if there: takes gated weights, whose panels are of two vectors
//   Kernel(tile_rows)          takes hold of what it needs on this thread; of integers
//                              Kernel(offsets), whether the weight's type has them
//   multiply(...)              adds the steps to sums[tile][rows][panel], or begins them
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/gemm/byte_panels.h"
#include "kernels/gemm/engine.h"
#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/integer_tile.h"
#include "quant/formats.h"

namespace sdcore::gemm {

template <class Kernel>
struct Driver {
  using V = typename Kernel::V;
  using Element = std::conditional_t<Kernel::pairs, uint16_t, float>;
  static constexpr int64_t step_elements = kStep * Kernel::panel;
  // Of a step of a panel of integers; 0: the kernel has none.
  static constexpr int64_t integer_step_bytes = [] {
    if constexpr (Kernel::integers) return Kernel::packed_step_bytes;
    return int64_t{0};
  }();

  // Element (k, n) of a step. Pairs lie as AMX wants its B tiles: [16 outputs][k / 2][output][2].
  SDCORE_SIMD int64_t place(int64_t k, int64_t n) {
    if constexpr (Kernel::pairs) return (n / 16) * 512 + (k / 2) * 32 + (n % 16) * 2 + (k % 2);
    return k * Kernel::panel + n;
  }

  // As below, for a whole step of floats, or of pairs, that lie together in each row: squares of
  // them are transposed in registers.
  template <class T>
  static void interleave_whole(const T* rows, int64_t row_stride, T* out) {
    constexpr int64_t unit = 4 / sizeof(T), side = V::width;
    for (int64_t n = 0; n < Kernel::panel; n += side) {
      for (int64_t k = 0; k < kStep; k += side * unit) {
        typename V::Bits square[side];
#pragma GCC unroll 16
        for (int64_t i = 0; i < side; ++i) {
          square[i] = V::load_bits(rows + (n + i) * row_stride + k);
        }
        V::transpose(square);
#pragma GCC unroll 16
        for (int64_t i = 0; i < side; ++i) {
          V::store_bits(out + place(k + i * unit, n), square[i]);
        }
      }
    }
  }

  // One step from rows of weights: value (k, n) is rows[n * row_stride + k * stride].
  template <class T>
  static void interleave(const T* rows, int64_t row_stride, int64_t stride, int64_t channels,
                         T* out) {
    if constexpr (sizeof(T) == (Kernel::pairs ? 2 : 4)) {
      if (stride == 1 && channels == kStep) return interleave_whole(rows, row_stride, out);
    }
    if constexpr (Kernel::pairs) {
      for (int64_t k = 0; k < kStep; k += 2) {
        for (int64_t n = 0; n < Kernel::panel; ++n) {
          const T* from = rows + n * row_stride + k * stride;
          T* to = out + place(k, n);
          to[0] = k < channels ? from[0] : T{};
          to[1] = k + 1 < channels ? from[stride] : T{};
        }
      }
    } else {
      for (int64_t k = 0; k < kStep; ++k) {
        for (int64_t n = 0; n < Kernel::panel; ++n) {
          out[place(k, n)] = k < channels ? rows[n * row_stride + k * stride] : T{};
        }
      }
    }
  }

  template <class From, class To>
  static void convert(const From* from, int64_t count, To* to) {
    if constexpr (std::is_same_v<From, To>) {
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
    } else {
      // Files promise no alignment, and a plain load of one value would need it.
      From lanes[V::width] = {};
      for (int64_t i = 0; i < count; i += V::width) {
        const int64_t n = count - i < V::width ? count - i : V::width;
        if (n == V::width) {
          std::memcpy(lanes, from + i, sizeof(lanes));
          V::store(to + i, V::load(lanes));
        } else {
          std::memcpy(lanes, from + i, static_cast<size_t>(n) * sizeof(From));
          V::store_n(to + i, V::load(lanes), n);
        }
      }
    }
  }

  static void round(float* values, int64_t count) {
    bf16 rounded[V::width];
    for (int64_t i = 0; i < count; i += V::width) {
      V::store(rounded, V::load(values + i));
      V::store(values + i, V::load(rounded));
    }
  }

  // ---- packing ----

  template <class From, class To>
  static void pack_as(const PackSource& s, int64_t panel, To* out, To* rows) {
    const int64_t row_stride = kStep * s.taps;
    const From* weight = reinterpret_cast<const From*>(s.data);
    const Rows row_of{s.outputs, s.gated};
    for (int64_t c = 0; c < s.channels; c += kStep) {
      const int64_t channels = s.channels - c < kStep ? s.channels - c : kStep;
      for (int64_t n = 0; n < Kernel::panel; ++n) {
        const int64_t o = row_of(panel, Kernel::panel, n);
        To* row = rows + n * row_stride;
        if (o < s.outputs) {
          convert(weight + (o * s.channels + c) * s.taps, channels * s.taps, row);
        } else {
          std::memset(row, 0, static_cast<size_t>(channels * s.taps) * sizeof(To));
        }
      }
      for (int64_t t = 0; t < s.taps; ++t, out += step_elements) {
        interleave(rows + t, row_stride, s.taps, channels, out);
      }
    }
  }

  template <class From>
  static void pack_integers(const PackSource& s, int64_t panel, float* out, float* rows) {
    if constexpr (integer_step_bytes > 0) {
      const From* weight = reinterpret_cast<const From*>(s.data);
      for (int64_t c = 0; c < s.channels; c += kStep, out += integer_step_bytes / 4) {
        for (int64_t n = 0; n < Kernel::panel; ++n) {
          const int64_t o = panel * Kernel::panel + n;
          float* row = rows + n * kStep;
          if (o < s.outputs) {
            convert(weight + o * s.channels + c, kStep, row);
          } else {
            std::memset(row, 0, kStep * sizeof(float));
          }
        }
        Kernel::pack_step(rows, out);
      }
    }
  }

  // `scratch` holds panel * kStep * taps floats.
  static void pack(const PackSource& s, int64_t panel, std::byte* out, std::byte* scratch) {
    if (s.stored == kIntegers) {
      const auto as = [&]<class From>() {
        pack_integers<From>(s, panel, reinterpret_cast<float*>(out),
                            reinterpret_cast<float*>(scratch));
      };
      if (s.type == Type::f32) return as.template operator()<float>();
      return s.type == Type::f16 ? as.template operator()<f16>() : as.template operator()<bf16>();
    }
    const auto as = [&]<class From, class To>() {
      pack_as<From, To>(s, panel, reinterpret_cast<To*>(out), reinterpret_cast<To*>(scratch));
    };
    if (s.type == s.stored) {
      if (s.type == Type::f32) return as.template operator()<float, float>();
      return s.type == Type::f16 ? as.template operator()<f16, f16>()
                                 : as.template operator()<bf16, bf16>();
    }
    if (s.type == Type::f32) return as.template operator()<float, bf16>();
    as.template operator()<f16, bf16>();
  }

  // ---- the loops ----

  template <class Format>
  static void unpack_integers(const Product& p, int64_t panel, int64_t begin, int64_t count,
                              float* out) {
    if constexpr (quant::Scales<Format> || quant::ScalesAndShifts<Format>) {
      const int64_t first = panel * Kernel::panel;
      Kernel::template unpack<Format>(p.blocks + first * p.row_blocks_bytes, p.row_blocks_bytes,
                                      p.outputs - first, begin, count, out);
    }
  }

  static void unpack_integers(const Product& p, int64_t panel, int64_t begin, int64_t count,
                              float* out) {
    switch (p.stored) {
#define SDCORE_TYPE(id, name, Format) \
  case Type::name:                    \
    return unpack_integers<quant::Format>(p, panel, begin, count, out);
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
    }
  }

  // Steps [begin, begin + count) of a panel in the form that the kernel reads.
  static const std::byte* block(const Product& p, int64_t panel, int64_t begin, int64_t count,
                                std::byte* scratch) {
    auto* out = reinterpret_cast<Element*>(scratch + p.scratch.block);
    if constexpr (Kernel::integers) {
      if (!p.unpack) return p.panels + panel * p.panel_bytes + begin * integer_step_bytes;
      unpack_integers(p, panel, begin, count, reinterpret_cast<float*>(out));
      return scratch + p.scratch.block;
    }
    if (p.unpack) {
      unpack(p, panel, begin, count, out, reinterpret_cast<float*>(scratch + p.scratch.values));
      return scratch + p.scratch.block;
    }
    const std::byte* stored = p.panels + panel * p.panel_bytes;
    if (p.stored == kBytes) {
      p.offsets ? unpack_bytes<true>(stored, p.taps, begin, count, out)
                : unpack_bytes<false>(stored, p.taps, begin, count, out);
      return scratch + p.scratch.block;
    }
    if constexpr (Kernel::pairs) {
      return stored + begin * step_elements * 2;
    } else {
      if (p.stored == Type::f32) return stored + begin * step_elements * 4;
      stored += begin * step_elements * 2;
      if (p.stored == Type::f16) {
        convert(reinterpret_cast<const f16*>(stored), count * step_elements, out);
      } else {
        convert(reinterpret_cast<const bf16*>(stored), count * step_elements, out);
      }
      return scratch + p.scratch.block;
    }
  }

  // Whether it reads panels of bytes.
  static constexpr bool bytes = !Kernel::pairs || requires { &V::store_pairs; };

  template <bool offsets>
  static void unpack_bytes(const std::byte* of_panel, int64_t taps, int64_t begin, int64_t count,
                           Element* out) {
    if constexpr (bytes) {
      constexpr int64_t each = Kernel::pairs ? 2 : 1;
      for (int64_t s = begin; s < begin + count; ++s, out += step_elements) {
        const ByteStep<V, Kernel::panel, offsets> weights(of_panel, taps, s);
        for (int64_t k = 0; k < kStep; k += each) {
          weights.prefetch_next_group(k);
#pragma GCC unroll 4
          for (int64_t j = 0; j < Kernel::panel; j += V::width) {
            if constexpr (Kernel::pairs) {
              V::store_pairs(out + place(k, j), weights(k, j), weights(k + 1, j));
            } else {
              V::store(out + place(k, j), weights(k, j));
            }
          }
        }
      }
    }
  }

  // Whether a step's blocks are unpacked to squares that are transposed in registers.
  template <class Format>
  static constexpr bool in_registers =
      (quant::Scales<Format> || quant::ScalesAndShifts<Format>) && Format::block_size == kStep &&
      requires(const Values<V, 2>& x) { V::to_bf16(x.v); };

  template <class Format>
  SDCORE_SIMD auto block_bits(const std::byte* from) {
    constexpr bool shifts = quant::ScalesAndShifts<Format>;
    const auto& block = *reinterpret_cast<const typename Format::Block*>(from);
    alignas(64) int8_t quants[kStep];
    float scale, offset = 0;
    if constexpr (shifts) {
      Format::integers(block, quants, &scale, &offset);
    } else {
      Format::integers(block, quants, &scale);
    }
    return V::to_bf16(scaled<shifts>(quants, scale, offset).v);
  }

  template <class Format>
  static void unpack_steps(const Product& p, int64_t panel, int64_t begin, int64_t count,
                           Element* out) {
    if constexpr (in_registers<Format>) {
      constexpr int64_t side = V::width, size = sizeof(typename Format::Block);
      const Rows row_of{p.outputs, p.gated};
      for (int64_t n = 0; n < Kernel::panel; n += side) {
        const int64_t row = row_of(panel, Kernel::panel, n);
        const int64_t rows = std::clamp<int64_t>(p.outputs - row, 0, side);
        const std::byte* from = p.blocks + row * p.row_blocks_bytes;
        const int64_t next = (row_of(panel + 1, Kernel::panel, n) - row) * p.row_blocks_bytes;
        for (int64_t s = begin; s < begin + count; ++s) {
          // Rows lie far apart, so that nothing else brings what comes next of each.
          const int64_t soon =
              s + kBlocksAhead < p.step_count ? s + kBlocksAhead : s + kBlocksAhead - p.step_count;
          const std::byte* ahead = from + soon * size + (soon < s ? next : 0);
          typename V::Bits square[side];
#pragma GCC unroll 16
          for (int64_t i = 0; i < side; ++i) {
            __builtin_prefetch(ahead + i * p.row_blocks_bytes);
            square[i] = i < rows ? block_bits<Format>(from + i * p.row_blocks_bytes + s * size)
                                 : typename V::Bits{};
          }
          V::transpose(square);
#pragma GCC unroll 16
          for (int64_t i = 0; i < side; ++i) {
            V::store_bits(out + (s - begin) * step_elements + place(i * 2, n), square[i]);
          }
        }
      }
    }
  }

  // 32 integers with their scale.
  template <bool shifts>
  SDCORE_SIMD auto scaled(const int8_t* quants, float scale, [[maybe_unused]] float offset) {
    Values<V, kStep / V::width> x;
#pragma GCC unroll 8
    for (int j = 0; j < kStep / V::width; ++j) {
      x.v[j] = V::mul(V::load(quants + j * V::width), V::set(scale));
      if constexpr (shifts) x.v[j] = V::add(x.v[j], V::set(offset));
    }
    return x;
  }

  // Blocks of integers as bf16, in vectors from the first to the last instruction.
  template <class Format>
  static void integers_to_bf16(const typename Format::Block& block, bf16* out) {
    constexpr bool shifts = quant::ScalesAndShifts<Format>;
    alignas(64) int8_t quants[Format::block_size];
    float scales[Format::block_size / kStep], offsets[Format::block_size / kStep] = {};
    if constexpr (shifts) {
      Format::integers(block, quants, scales, offsets);
    } else {
      Format::integers(block, quants, scales);
    }
    for (int64_t group = 0; group < Format::block_size / kStep; ++group, out += kStep) {
      scaled<shifts>(quants + group * kStep, scales[group], offsets[group])
          .template store<true>(out, kStep, false);
    }
  }

  // A row of blocks as floats; for pairs as bf16, of which number i lies before float i.
  template <class Format>
  static void unpack_row(const std::byte* from, float* out, int64_t count) {
    if constexpr (Kernel::pairs && (quant::Scales<Format> || quant::ScalesAndShifts<Format>)) {
      const auto* block = reinterpret_cast<const typename Format::Block*>(from);
      auto* to = reinterpret_cast<bf16*>(out);
      for (int64_t i = 0; i < count; i += Format::block_size) {
        integers_to_bf16<Format>(*block++, to + i);
      }
    } else if constexpr (quant::Dequantizes<Format>) {
      const auto* block = reinterpret_cast<const typename Format::Block*>(from);
      for (int64_t i = 0; i < count; i += Format::block_size) Format::dequantize(*block++, out + i);
      if constexpr (Kernel::pairs) convert(out, count, reinterpret_cast<bf16*>(out));
    }
  }

  using Unpack = void (*)(const std::byte* from, float* out, int64_t count);

  // The formats' own code, compiled for this instruction set.
  static Unpack unpack_of(Type type) {
    switch (type) {
#define SDCORE_TYPE(id, name, Format) \
  case Type::name:                    \
    return &unpack_row<quant::Format>;
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
    }
    return nullptr;
  }

  static void prefetch(const Product& p, int64_t row, int64_t begin) {
    const int64_t block = p.unpack->block_size, bytes = p.unpack->block_bytes;
    const std::byte* from = p.blocks + row * p.row_blocks_bytes + begin / block * bytes;
    for (int64_t i = 0; i < kUnpack / block * bytes; i += 64) __builtin_prefetch(from + i);
  }

  using UnpackSteps = void (*)(const Product& p, int64_t panel, int64_t begin, int64_t count,
                               Element* out);

  // Null where blocks take the way over rows.
  static UnpackSteps unpack_steps_of(Type type) {
    switch (type) {
#define SDCORE_TYPE(id, name, Format) \
  case Type::name:                    \
    return in_registers<quant::Format> ? &unpack_steps<quant::Format> : nullptr;
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
    }
    return nullptr;
  }

  static void unpack(const Product& p, int64_t panel, int64_t begin, int64_t count, Element* out,
                     float* values) {
    if (const UnpackSteps steps = unpack_steps_of(p.stored)) {
      return steps(p, panel, begin, count, out);
    }
    const Unpack unpack_row = unpack_of(p.stored);
    const Rows row_of{p.outputs, p.gated};
    const int64_t inputs = p.row_blocks_bytes / p.unpack->block_bytes * p.unpack->block_size;
    const int64_t end = (begin + count) * kStep < inputs ? (begin + count) * kStep : inputs;
    for (int64_t k = begin * kStep; k < end; k += kUnpack) {
      const int64_t size = end - k < kUnpack ? end - k : kUnpack;
      for (int64_t n = 0; n < Kernel::panel; ++n) {
        float* row = values + n * kUnpack;
        const int64_t o = row_of(panel, Kernel::panel, n);
        if (o < p.outputs) {
          const std::byte* of_row = p.blocks + o * p.row_blocks_bytes;
          unpack_row(of_row + k / p.unpack->block_size * p.unpack->block_bytes, row, size);
          // Rows lie far apart, so that nothing else brings what comes next of each.
          const bool more = k + kUnpack < inputs;
          const int64_t next = more ? o : row_of(panel + 1, Kernel::panel, n);
          if (next < p.outputs) prefetch(p, next, more ? k + kUnpack : 0);
        } else {
          std::memset(row, 0, kUnpack * sizeof(float));
        }
        if (!Kernel::pairs && p.bf16_weights) round(row, size);
      }
      constexpr int64_t row_stride = kUnpack * sizeof(float) / sizeof(Element);
      for (int64_t i = 0; i < size; i += kStep, out += step_elements) {
        interleave(reinterpret_cast<const Element*>(values) + i, row_stride, 1,
                   size - i < kStep ? size - i : kStep, out);
      }
    }
  }

  static void unpack_panel(const Product& p, int64_t panel, std::byte* out, std::byte* scratch) {
    unpack(p, panel, 0, p.step_count, reinterpret_cast<Element*>(out),
           reinterpret_cast<float*>(scratch + p.scratch.values));
  }

  // Copies rows so that what one step of a tile reads lies together, [step][row][channel], which
  // caches bring faster than rows far apart; and with all taps of a row side by side, any number of
  // channels fills whole steps.
  static void gather(const Product& p, Tile* tiles, int64_t count, char* out, char* line) {
    constexpr int64_t bytes = kStep * 2;
    const int64_t used = p.gather_count * p.gather_bytes;
    for (int64_t t = 0; t < count; ++t, out += p.step_count * bytes * Kernel::rows) {
      for (int r = 0; r < tiles[t].rows; ++r) {
        const char* row = tiles[t].a + r * p.row_bytes;
        if (used < p.step_count * bytes || p.gather_count > 1) {
          for (int64_t i = 0; i < p.gather_count; ++i) {
            std::memcpy(line + i * p.gather_bytes, row + p.gather_taps[i],
                        static_cast<size_t>(p.gather_bytes));
          }
          std::memset(line + used, 0, static_cast<size_t>(p.step_count * bytes - used));
          row = line;
        }
        for (int64_t s = 0; s < p.step_count; ++s) {
          std::memcpy(out + (s * Kernel::rows + r) * bytes, row + s * bytes, bytes);
        }
      }
      tiles[t].a = out;
    }
  }

  // Copies rows as floats, a row of which is as long as `p` says.
  static void widen(const Product& p, Tile* tiles, int64_t count, char* out) {
    for (int64_t t = 0; t < count; ++t) {
      const char* row = tiles[t].a;
      tiles[t].a = out;
      for (int r = 0; r < tiles[t].rows; ++r, row += p.row_bytes) {
        convert(reinterpret_cast<const bf16*>(row), p.widened, reinterpret_cast<float*>(out));
        out += widened_row_bytes(p.widened);
      }
    }
  }

  static Kernel hold(const Product& p, const Tile& tile) {
    if constexpr (Kernel::integers) {
      return Kernel(p.unpack && p.unpack->offsets);
    } else {
      return Kernel(tile.rows);
    }
  }

  static void run(const Product& p, int64_t task, std::byte* scratch) {
    const Range range = tiles_of(p, task);
    const Range panels = panels_of(p, task);
    const int64_t count = range.end - range.begin;
    auto* tiles = reinterpret_cast<Tile*>(scratch);
    auto* rows = reinterpret_cast<Row*>(scratch + p.scratch.rows);
    auto* sums = reinterpret_cast<float*>(scratch + p.scratch.sums);
    fill_tiles(p, range, Kernel::rows, Kernel::equal_tiles, tiles, rows);
    int64_t row_bytes = p.row_bytes;
    if (p.gather_count) {
      gather(p, tiles, count, reinterpret_cast<char*>(scratch + p.scratch.gathered),
             reinterpret_cast<char*>(scratch + p.scratch.line));
      row_bytes = kStep * 2;
    }
    if constexpr (Kernel::widens) {
      widen(p, tiles, count, reinterpret_cast<char*>(scratch + p.scratch.gathered));
      row_bytes = widened_row_bytes(p.widened);
    }
    const Kernel kernel = hold(p, tiles[0]);
    constexpr int64_t tile_sums = Kernel::rows * Kernel::panel;
    Pending<V, Kernel::panel> pending(p);
    const bool single = p.block_steps >= p.step_count;
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int64_t column = panel * Kernel::panel;
      const int64_t columns =
          p.outputs - column < Kernel::panel ? p.outputs - column : Kernel::panel;
      for (int64_t begin = 0; begin < p.step_count; begin += p.block_steps) {
        const int64_t left = p.step_count - begin;
        const int64_t steps = left < p.block_steps ? left : p.block_steps;
        const auto* b = reinterpret_cast<const char*>(block(p, panel, begin, steps, scratch));
        const bool in_place = p.panels && p.stored != kBytes;
        const int64_t bytes = in_place ? steps * step_elements * int64_t{sizeof(Element)} : 0;
        const int64_t group = p.stack > 1 ? p.stack : Kernel::group;
        for (int64_t t = 0; t < count; t += group) {
          const int64_t n = count - t < group ? count - t : group;
          const Tile* next = tiles + (t + n < count ? t + n : 0);
          const Range ahead{bytes * t / count / 64 * 64, bytes * (t + n) / count / 64 * 64};
          float* sum = single ? sums : sums + t * tile_sums;
          kernel.multiply(tiles + t, n, next, row_bytes, p.steps + begin, steps, b,
                          {b + bytes + ahead.begin, ahead.end - ahead.begin}, columns, sum,
                          begin > 0, pending);
          if (steps < left) continue;
          pending.begin(rows + t * Kernel::rows, sum, n * Kernel::rows, column, columns);
        }
      }
    }
    pending.some(pending.left());
  }
};

template <class Kernel>
constexpr auto quantizer() -> decltype(Variant::quantize) {
  if constexpr (Kernel::integers) return &quantize_rows<typename Kernel::V>;
  return nullptr;
}

template <class Kernel>
constexpr int block_bytes() {
  if constexpr (Kernel::integers) return sizeof(typename Kernel::Block);
  return 0;
}

template <class Kernel>
constexpr bool int8() {
  if constexpr (Kernel::integers) return std::is_same_v<typename Kernel::Block, ActivationBlock>;
  return false;
}

template <class Kernel>
constexpr int most_weight() {
  if constexpr (requires { Kernel::V::most_weight; }) return Kernel::V::most_weight;
  return 128;
}

template <class Kernel>
constexpr bool gates() {
  if constexpr (requires { Kernel::gates; }) return Kernel::gates;
  return false;
}

template <class Kernel>
constexpr int stack() {
  if constexpr (requires { Kernel::stack; }) return Kernel::stack;
  return 1;
}

template <class Kernel>
constexpr int stack_steps() {
  if constexpr (requires { Kernel::stack_steps; }) return Kernel::stack_steps;
  return 0;
}

template <class Kernel>
constexpr int64_t chunk_bytes() {
  if constexpr (requires { Kernel::chunk_bytes; }) return Kernel::chunk_bytes;
  return 256 << 10;
}

template <class Kernel>
constexpr Variant variant(const char* name, Isa isa, DType dtype) {
  return {name,
          isa,
          dtype,
          Kernel::rows,
          Kernel::panel,
          Kernel::equal_tiles,
          Kernel::pairs,
          Kernel::whole_steps,
          Kernel::widens,
          gates<Kernel>(),
          Driver<Kernel>::bytes,
          block_bytes<Kernel>(),
          int8<Kernel>(),
          most_weight<Kernel>(),
          stack<Kernel>(),
          Kernel::block_steps,
          Kernel::long_block_steps,
          stack_steps<Kernel>(),
          chunk_bytes<Kernel>(),
          Driver<Kernel>::integer_step_bytes,
          &Driver<Kernel>::pack,
          &Driver<Kernel>::unpack_panel,
          quantizer<Kernel>(),
          &Driver<Kernel>::run};
}

}  // namespace sdcore::gemm
