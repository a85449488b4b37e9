// What every storage format is made of: a traits class with
//
//   static constexpr int64_t block_size;                 elements a block
//   struct [[gnu::packed]] Block;                        one block, at any address, in host order
//   static void swap(Block&);                            to or from the other byte order
//   static void dequantize(const Block&, float* out);    unless it holds integers
//   static void quantize(const float* values, Block&);   if it can be made here, or
//   static void quantize(const float* values, const float* importance, Block&);
//                                                        where `importance` weighs the squared
//                                                        errors of the numbers; null: all alike
//   static void integers(const Block&, int8_t* quants, float* scales);
//                                                        where each 32 numbers are integers
//                                                        times a scale, or
//   static void integers(const Block&, int8_t* quants, float* scales, float* offsets);
//                                                        that plus an offset
//   static constexpr int most_integer;                   of those: none is further from zero
//
// All of it is always inlined, so that translation units for different instruction sets never share
// a copy, and each gets its own vectorized code.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/half.h"

#define SDCORE_FORMAT [[gnu::always_inline]] static inline

// Before a loop of 16: left to itself the compiler unrolls it whole and then fails to vectorize it.
#if defined(__clang__)
#define SDCORE_KEEP_LOOP _Pragma("clang loop unroll(disable)")
#else
#define SDCORE_KEEP_LOOP _Pragma("GCC unroll 1")
#endif

namespace sdcore::quant {

template <class Format>
concept Dequantizes =
    requires(const typename Format::Block& block, float* out) { Format::dequantize(block, out); };

template <class Format>
concept Quantizes = requires(const float* values, typename Format::Block& block) {
  Format::quantize(values, block);
};

template <class Format>
concept Weighs = requires(const float* values, typename Format::Block& block) {
  Format::quantize(values, values, block);
};

template <class Format>
concept Scales = requires(const typename Format::Block& block, int8_t* quants, float* floats) {
  Format::integers(block, quants, floats);
};

template <class Format>
concept ScalesAndShifts =
    requires(const typename Format::Block& block, int8_t* quants, float* floats) {
      Format::integers(block, quants, floats, floats);
    };

// A block's integers, and the scale and offset of each group of 32.
template <class Format>
struct BlockIntegers {
  static constexpr bool shifts = ScalesAndShifts<Format>;
  static constexpr int groups = Format::block_size / 32;
  alignas(64) int8_t quants[Format::block_size];
  float scales[groups], offsets[groups];

  [[gnu::always_inline]] void read(const typename Format::Block& block) {
    if constexpr (shifts) {
      Format::integers(block, quants, scales, offsets);
    } else {
      Format::integers(block, quants, scales);
    }
  }
};

// A field of a block in the other byte order.
template <class Field>
[[gnu::always_inline]] inline Field swapped(Field field) {
  auto bytes = std::bit_cast<std::array<std::byte, sizeof(Field)>>(field);
  std::reverse(bytes.begin(), bytes.end());
  return std::bit_cast<Field>(bytes);
}

// The integer part of a value, kept within [0, limit]; NaN gives 0.
[[gnu::always_inline]] inline uint8_t truncate(float value, float limit) {
  if (!(value > 0.0f)) return 0;
  return static_cast<uint8_t>(value < limit ? value : limit);
}

// The integer nearest to a value that is not negative, halves upwards, kept within [0, limit].
// (Adding 0.5 and truncating would take 0.49999997 to 1.)
[[gnu::always_inline]] inline uint8_t round_away(float value, float limit) {
  const uint8_t whole = truncate(value, limit);
  return static_cast<uint8_t>(whole + (value < limit && value - whole >= 0.5f));
}

}  // namespace sdcore::quant
