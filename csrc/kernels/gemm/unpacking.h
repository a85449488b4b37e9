// Weights that are not stored as the kernel reads them, as a panel of its layout: bytes of
// quantized convolutions, and blocks of quantized types. Included only from files of one
// instruction set, with classes from their unnamed namespaces.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/gemm/byte_panels.h"
#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/panel_layout.h"
#include "kernels/gemm/woven.h"
#include "quant/formats.h"

namespace sdcore::gemm {

template <class Kernel>
class Unpacking {
  using Layout = PanelLayout<Kernel>;
  using V = typename Layout::V;
  using Element = typename Layout::Element;

 public:
  // Whether it reads panels of bytes.
  static constexpr bool bytes = !Kernel::pairs || requires { &V::store_pairs; };

  template <bool offsets>
  static void unpack_bytes(const std::byte* of_panel, int64_t taps, int64_t begin, int64_t count,
                           Element* out) {
    if constexpr (bytes) {
      constexpr int64_t each = Kernel::pairs ? 2 : 1;
      for (int64_t s = begin; s < begin + count; ++s, out += Layout::step_elements) {
        const ByteStep<V, Kernel::panel, offsets> weights(of_panel, taps, s);
        for (int64_t k = 0; k < kStep; k += each) {
          weights.prefetch_next_group(k);
#pragma GCC unroll 4
          for (int64_t j = 0; j < Kernel::panel; j += V::width) {
            if constexpr (Kernel::pairs) {
              V::store_pairs(out + Layout::place(k, j), weights(k, j), weights(k + 1, j));
            } else {
              V::store(out + Layout::place(k, j), weights(k, j));
            }
          }
        }
      }
    }
  }

  // Steps [begin, begin + count) of a panel of blocks; `values` holds a panel of rows meanwhile.
  static void unpack_blocks(const Product& p, int64_t panel, int64_t begin, int64_t count,
                            Element* out, float* values) {
    if (p.woven_bytes > 0) {
      return Woven<Kernel>::unpack(p.stored, p.blocks + panel * p.woven_bytes, begin, count, out);
    }
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
        if (!Kernel::pairs && p.bf16_weights) Layout::round(row, size);
      }
      constexpr int64_t row_stride = kUnpack * sizeof(float) / sizeof(Element);
      for (int64_t i = 0; i < size; i += kStep, out += Layout::step_elements) {
        Layout::interleave(reinterpret_cast<const Element*>(values) + i, row_stride, 1,
                           size - i < kStep ? size - i : kStep, out);
      }
    }
  }

 private:
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

  // Whether a step's blocks are unpacked to squares that are transposed in registers.
  template <class Format>
  static constexpr bool in_registers = (quant::Scales<Format> || quant::ScalesAndShifts<Format>) &&
                                       !Woven<Kernel>::template takes<Format> &&
                                       requires(const Values<V, 2>& x) { V::to_bf16(x.v); };

  template <class Format>
  struct Integers : quant::BlockIntegers<Format> {
    [[gnu::always_inline]] void read_from(const std::byte* block) {
      this->read(*reinterpret_cast<const typename Format::Block*>(block));
    }
    [[gnu::always_inline]] auto group(int64_t g) const {
      return scaled<Integers::shifts>(this->quants + g * kStep, this->scales[g],
                                      Integers::shifts ? this->offsets[g] : 0.0f);
    }
  };

  template <class Format>
  static void unpack_steps(const Product& p, int64_t panel, int64_t begin, int64_t count,
                           Element* out) {
    if constexpr (in_registers<Format>) {
      constexpr int64_t side = V::width, size = sizeof(typename Format::Block);
      constexpr int64_t groups = Integers<Format>::groups;
      const int64_t blocks = p.step_count / groups;
      const Rows row_of{p.outputs, p.gated};
      for (int64_t n = 0; n < Kernel::panel; n += side) {
        const int64_t row = row_of(panel, Kernel::panel, n);
        const int64_t rows = std::clamp<int64_t>(p.outputs - row, 0, side);
        const std::byte* from = p.blocks + row * p.row_blocks_bytes;
        const int64_t next = (row_of(panel + 1, Kernel::panel, n) - row) * p.row_blocks_bytes;
        Integers<Format> integers[side];
        for (int64_t s = begin; s < begin + count; ++s) {
          const int64_t at = s / groups;
          if (groups == 1 || s == begin || s % groups == 0) {
            // Rows lie far apart, so that nothing else brings what comes next of each.
            constexpr int64_t lead = groups == 1 ? kBlocksAhead : 1;
            const int64_t soon = at + lead < blocks ? at + lead : at + lead - blocks;
            const std::byte* ahead = from + soon * size + (soon <= at ? next : 0);
#pragma GCC unroll 16
            for (int64_t i = 0; i < rows; ++i) {
              for (int64_t line = 0; line < size; line += 64) {
                __builtin_prefetch(ahead + i * p.row_blocks_bytes + line);
              }
              if (groups > 1) integers[i].read_from(from + i * p.row_blocks_bytes + at * size);
            }
          }
          typename V::Bits square[side];
#pragma GCC unroll 16
          for (int64_t i = 0; i < side; ++i) {
            square[i] = typename V::Bits{};
            if (i >= rows) continue;
            if (groups == 1) integers[i].read_from(from + i * p.row_blocks_bytes + at * size);
            square[i] = V::to_bf16(integers[i].group(s % groups).v);
          }
          V::transpose(square);
#pragma GCC unroll 16
          for (int64_t i = 0; i < side; ++i) {
            V::store_bits(out + (s - begin) * Layout::step_elements + Layout::place(i * 2, n),
                          square[i]);
          }
        }
      }
    }
  }

  // A row of blocks as floats; for pairs as bf16, of which number i lies before float i.
  template <class Format>
  static void unpack_row(const std::byte* from, float* out, int64_t count) {
    if constexpr (Kernel::pairs && (quant::Scales<Format> || quant::ScalesAndShifts<Format>)) {
      auto* to = reinterpret_cast<bf16*>(out);
      Integers<Format> integers;
      for (int64_t i = 0; i < count; i += Format::block_size) {
        integers.read_from(from);
        from += sizeof(typename Format::Block);
        for (int64_t g = 0; g < integers.groups; ++g) {
          integers.group(g).template store<true>(to + i + g * kStep, kStep, false);
        }
      }
    } else if constexpr (quant::Dequantizes<Format>) {
      const auto* block = reinterpret_cast<const typename Format::Block*>(from);
      for (int64_t i = 0; i < count; i += Format::block_size) Format::dequantize(*block++, out + i);
      if constexpr (Kernel::pairs) Layout::convert(out, count, reinterpret_cast<bf16*>(out));
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
};

}  // namespace sdcore::gemm
