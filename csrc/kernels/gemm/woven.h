// Blocks of quantized types whose rows are woven together for a kernel that reads pairs: of the
// outputs of a panel, blocks of the same inputs lie side by side, their numbers in the order in
// which the kernel reads them. Nothing is rounded, and unpacking needs no transposition.
//
//   block: [output] scales, the same of minimums where the type has them (f16),
//          [group][output] bytes of small scales, the same of minimums, where groups have them,
//          [group] numbers of 32 inputs in the kernel's order: bytes, or codes of 4 bits, of which
//          a byte holds numbers j and j + 16 of 32
//
// Included only from files of one instruction set, with classes from their unnamed namespaces.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/gemm/panel_layout.h"
#include "quant/formats.h"

namespace sdcore::gemm {

template <class Format>
concept HasMinimum = requires(typename Format::Block block) { block.minimum; };
template <class Format>
concept HasSmallScales = requires(typename Format::Block block) { block.scales.scale(0); };

// Types whose blocks are a scale, perhaps a minimum and small scales, and whole numbers of a size.
template <class Format>
constexpr bool weavable() {
  if constexpr ((quant::Scales<Format> || quant::ScalesAndShifts<Format>) &&
                requires(typename Format::Block block) {
                  block.scale.bits;
                  block.quants[0];
                }) {
    using Block = typename Format::Block;
    size_t others = sizeof(Block::scale);
    if constexpr (HasMinimum<Format>) others += sizeof(Block::minimum);
    if constexpr (HasSmallScales<Format>) others += sizeof(Block::scales);
    constexpr size_t bits = sizeof(Block::quants) * 8 / Format::block_size;
    return sizeof(Block) == others + sizeof(Block::quants) && (bits == 4 || bits == 8);
  }
  return false;
}

template <class Kernel>
class Woven {
  using Layout = PanelLayout<Kernel>;
  using V = typename Layout::V;
  using Element = typename Layout::Element;
  static constexpr int64_t panel = Kernel::panel;

  // Where the parts of a block of a panel begin.
  template <class Format>
  struct Parts {
    static constexpr bool minimums = HasMinimum<Format>, small = HasSmallScales<Format>;
    static constexpr int64_t groups = Format::block_size / kStep;
    static constexpr int64_t bits = sizeof(Format::Block::quants) * 8 / Format::block_size;
    static constexpr int64_t step_bytes = kStep * panel * bits / 8;
    static constexpr int64_t minimum = panel * int64_t{sizeof(f16)};
    static constexpr int64_t small_scales = minimum * (minimums ? 2 : 1);
    static constexpr int64_t small_minimums = small_scales + (small ? groups * panel : 0);
    static constexpr int64_t quants = small_minimums + (small && minimums ? groups * panel : 0);
    static constexpr int64_t bytes = quants + groups * step_bytes;
  };

  // The numbers that codes of 4 bits stand for.
  template <class Format>
  static const std::array<int8_t, 16>& levels() {
    static const auto all = [] {
      typename Format::Block block{};
      for (uint8_t i = 0; i < 16; ++i) block.quants[i] = i;
      quant::BlockIntegers<Format> integers;
      integers.read(block);
      std::array<int8_t, 16> first;
      std::copy_n(integers.quants, 16, first.begin());
      return first;
    }();
    return all;
  }

 public:
  // Whether its blocks are woven.
  template <class Format>
  static constexpr bool takes = [] {
    if constexpr (Kernel::pairs &&
                  requires(typename V::F x, typename V::F(&twice)[2]) { V::in_pairs(x, twice); }) {
      return weavable<Format>();
    }
    return false;
  }();

  // Bytes of a panel's blocks of the same inputs; 0: rows of blocks of this type stay as they are.
  static int64_t bytes(Type type) {
    switch (type) {
#define SDCORE_TYPE(id, name, Format)                                       \
  case Type::name:                                                          \
    if constexpr (takes<quant::Format>) return Parts<quant::Format>::bytes; \
    break;
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
    }
    return 0;
  }

  static void weave(const PackSource& s, int64_t of_panel, std::byte* out) {
    switch (s.type) {
#define SDCORE_TYPE(id, name, Format)                                              \
  case Type::name:                                                                 \
    if constexpr (takes<quant::Format>) weave_as<quant::Format>(s, of_panel, out); \
    break;
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
    }
  }

  // Steps [begin, begin + count) of the panel that begins at `from`.
  static void unpack(Type type, const std::byte* from, int64_t begin, int64_t count, Element* out) {
    switch (type) {
#define SDCORE_TYPE(id, name, Format)                                                      \
  case Type::name:                                                                         \
    if constexpr (takes<quant::Format>) unpack_as<quant::Format>(from, begin, count, out); \
    break;
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
    }
  }

 private:
  template <class Format>
  static void weave_as(const PackSource& s, int64_t of_panel, std::byte* out) {
    using At = Parts<Format>;
    using Block = typename Format::Block;
    const int64_t blocks = s.channels / Format::block_size;
    const Rows row_of{s.outputs, s.gated};
    for (int64_t b = 0; b < blocks; ++b, out += At::bytes) {
      std::array<quant::BlockIntegers<Format>, panel> rows;
      for (int64_t n = 0; n < panel; ++n) {
        const int64_t row = row_of(of_panel, panel, n);
        Block block{};
        if (row < s.outputs) {
          std::memcpy(&block, s.data + (row * blocks + b) * int64_t{sizeof(Block)}, sizeof(Block));
        }
        rows[n].read(block);
        weave_scales<Format>(block, n, out);
      }
      for (int64_t g = 0; g < At::groups; ++g) {
        int8_t step[kStep * panel];
        for (int64_t n = 0; n < panel; ++n) {
          const int8_t* from = rows[n].quants + g * kStep;
          for (int64_t k = 0; k < kStep; k += 2)
            std::memcpy(step + Layout::place(k, n), from + k, 2);
        }
        weave_step<Format>(step, out + At::quants + g * At::step_bytes);
      }
    }
  }

  template <class Format>
  static void weave_scales(const typename Format::Block& block, int64_t n, std::byte* out) {
    using At = Parts<Format>;
    const auto put = [&](int64_t at, auto x) {
      std::memcpy(out + at + n * sizeof(x), &x, sizeof(x));
    };
    put(0, f16{block.scale});
    if constexpr (At::minimums) put(At::minimum, f16{block.minimum});
    if constexpr (At::small) {
      for (int g = 0; g < At::groups; ++g) {
        put(At::small_scales + g * panel, block.scales.scale(g));
        if constexpr (At::minimums) put(At::small_minimums + g * panel, block.scales.minimum(g));
      }
    }
  }

  template <class Format>
  static void weave_step(const int8_t (&step)[kStep * panel], std::byte* out) {
    if constexpr (Parts<Format>::bits == 8) {
      std::memcpy(out, step, sizeof(step));
    } else {
      static const auto& all = levels<Format>();
      static const bool even =
          std::ranges::adjacent_find(all, [](int a, int b) { return b != a + 1; }) == all.end();
      static const auto code_of = [] {
        std::array<uint8_t, 256> codes{};
        for (uint8_t i = 0; i < 16; ++i) codes[static_cast<uint8_t>(all[i])] = i;
        return codes;
      }();
      const auto put = [&](auto&& code) {
        for (int64_t i = 0; i < kStep * panel; i += 32, out += 16) {
          for (int64_t j = 0; j < 16; ++j) {
            out[j] = static_cast<std::byte>(code(step[i + j]) | (code(step[i + j + 16]) << 4));
          }
        }
      };
      if (even) {  // which takes vectors
        put([first = all[0]](int8_t x) { return static_cast<uint8_t>(x - first); });
      } else {
        put([](int8_t x) { return code_of[static_cast<uint8_t>(x)]; });
      }
    }
  }

  template <class Format>
  static void unpack_as(const std::byte* from, int64_t begin, int64_t count, Element* out) {
    using At = Parts<Format>;
    // How far before their use numbers are asked for.
    constexpr int64_t ahead = 4096;
    [[maybe_unused]] typename V::F table;
    if constexpr (At::bits == 4) table = V::load(levels<Format>().data());
    for (int64_t s = begin; s < begin + count; ++s, out += Layout::step_elements) {
      const std::byte* block = from + s / At::groups * At::bytes;
      const int64_t g = s % At::groups;
      const std::byte* quants = block + At::quants + g * At::step_bytes;
      for (int64_t n = 0; n < panel; n += V::width) {
        typename V::F scales[2];
        [[maybe_unused]] typename V::F offsets[2];
        V::in_pairs(scale<Format>(block, g, n), scales);
        if constexpr (At::minimums) V::in_pairs(offset<Format>(block, g, n), offsets);
#pragma GCC unroll 16
        for (int64_t k = 0; k < kStep; k += 2, quants += 4 * At::bits) {
          if (k * At::bits % 32 == 0) __builtin_prefetch(quants + ahead);
          typename V::F x[2];
          if constexpr (At::bits == 8) {
            x[0] = V::load(reinterpret_cast<const int8_t*>(quants));
            x[1] = V::load(reinterpret_cast<const int8_t*>(quants) + V::width);
          } else {
            V::look_up(reinterpret_cast<const uint8_t*>(quants), table, x);
          }
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i) {
            if constexpr (At::minimums) {
              x[i] = V::fma(x[i], scales[i], offsets[i]);
            } else {
              x[i] = V::mul(x[i], scales[i]);
            }
          }
          V::store_bits(out + Layout::place(k, n), V::to_bf16(x));
        }
      }
    }
  }

  // Of 16 outputs of a group.
  template <class Format>
  SDCORE_SIMD auto scale(const std::byte* block, int64_t g, int64_t n) {
    using At = Parts<Format>;
    auto x = V::load(reinterpret_cast<const f16*>(block) + n);
    if constexpr (At::small) x = V::mul(x, small(block + At::small_scales + g * panel + n));
    return x;
  }
  // Which minimums are where small scales say by how much weights are less.
  template <class Format>
  SDCORE_SIMD auto offset(const std::byte* block, int64_t g, int64_t n) {
    using At = Parts<Format>;
    const auto x = V::load(reinterpret_cast<const f16*>(block + At::minimum) + n);
    if constexpr (!At::small) return x;
    return V::sub(V::zero(), V::mul(x, small(block + At::small_minimums + g * panel + n)));
  }
  SDCORE_SIMD auto small(const std::byte* at) {
    return V::load(reinterpret_cast<const int8_t*>(at));  // below 64
  }
};

}  // namespace sdcore::gemm
