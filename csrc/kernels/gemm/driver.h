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

#include <cstring>

#include "kernels/gemm/engine.h"
#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/integer_tile.h"
#include "kernels/gemm/panel_layout.h"
#include "kernels/gemm/unpacking.h"
#include "kernels/gemm/woven.h"

namespace sdcore::gemm {

template <class Kernel>
struct Driver {
  using V = typename Kernel::V;
  using Layout = PanelLayout<Kernel>;
  using Unpack = Unpacking<Kernel>;
  using Element = typename Layout::Element;
  static constexpr int64_t step_elements = Layout::step_elements;
  // Of a step of a panel of integers; 0: the kernel has none.
  static constexpr int64_t integer_step_bytes = [] {
    if constexpr (Kernel::integers) return Kernel::packed_step_bytes;
    return int64_t{0};
  }();

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
          Layout::convert(weight + (o * s.channels + c) * s.taps, channels * s.taps, row);
        } else {
          std::memset(row, 0, static_cast<size_t>(channels * s.taps) * sizeof(To));
        }
      }
      for (int64_t t = 0; t < s.taps; ++t, out += step_elements) {
        Layout::interleave(rows + t, row_stride, s.taps, channels, out);
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
            Layout::convert(weight + o * s.channels + c, kStep, row);
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
    if (Woven<Kernel>::bytes(s.stored) > 0) return Woven<Kernel>::weave(s, panel, out);
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
      Unpack::unpack_blocks(p, panel, begin, count, out,
                            reinterpret_cast<float*>(scratch + p.scratch.values));
      return scratch + p.scratch.block;
    }
    const std::byte* stored = p.panels + panel * p.panel_bytes;
    if (p.stored == kBytes) {
      p.offsets ? Unpack::template unpack_bytes<true>(stored, p.taps, begin, count, out)
                : Unpack::template unpack_bytes<false>(stored, p.taps, begin, count, out);
      return scratch + p.scratch.block;
    }
    if constexpr (Kernel::pairs) {
      return stored + begin * step_elements * 2;
    } else {
      if (p.stored == Type::f32) return stored + begin * step_elements * 4;
      stored += begin * step_elements * 2;
      if (p.stored == Type::f16) {
        Layout::convert(reinterpret_cast<const f16*>(stored), count * step_elements, out);
      } else {
        Layout::convert(reinterpret_cast<const bf16*>(stored), count * step_elements, out);
      }
      return scratch + p.scratch.block;
    }
  }

  static void unpack_panel(const Product& p, int64_t panel, std::byte* out, std::byte* scratch) {
    Unpack::unpack_blocks(p, panel, 0, p.step_count, reinterpret_cast<Element*>(out),
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
        Layout::convert(reinterpret_cast<const bf16*>(row), p.widened,
                        reinterpret_cast<float*>(out));
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
        const bool asks = p.panels && p.stored != kBytes && !p.stay;
        const int64_t bytes = asks ? steps * step_elements * int64_t{sizeof(Element)} : 0;
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
          Unpacking<Kernel>::bytes,
          block_bytes<Kernel>(),
          int8<Kernel>(),
          most_weight<Kernel>(),
          stack<Kernel>(),
          Kernel::block_steps,
          Kernel::long_block_steps,
          stack_steps<Kernel>(),
          chunk_bytes<Kernel>(),
          Driver<Kernel>::integer_step_bytes,
          &Woven<Kernel>::bytes,
          &Driver<Kernel>::pack,
          &Driver<Kernel>::unpack_panel,
          quantizer<Kernel>(),
          &Driver<Kernel>::run};
}

}  // namespace sdcore::gemm
