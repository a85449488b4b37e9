// q5_K: 256 numbers of 5 bits in eight groups of 32, each with a 6-bit scale and a 6-bit minimum;
// 5.5 bits a number.
//
//   byte 0        2         4             16                48                              176
//        | scale  | minimum | scales[12]  | high[32]        | low[128]                      |
//        | f16    | f16     | k_scales.h  | bit g of byte   | 32 bytes a pair of groups:    |
//        |        |         |             | i % 32: 5th bit | low half: even, high: odd     |
//
//   x[i] = scale * scales[g] * q[i] - minimum * minimums[g],  g = i / 32
#pragma once

#include "quant/k_scales.h"
#include "quant/k_search.h"

namespace sdcore::quant {

struct Q5_K {
  static constexpr int64_t block_size = 256;
  static constexpr int most_integer = 31;
  struct [[gnu::packed]] Block {
    f16 scale;
    f16 minimum;
    KScales scales;
    uint8_t high[32];
    uint8_t low[128];
  };
  static_assert(sizeof(Block) == 176);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    block.minimum = swapped(block.minimum);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale), minimum = to_float(block.minimum);
    for (int group = 0; group < 8; group += 2) {
      const uint8_t* low = block.low + group * 16;
      for (int half = 0; half < 2; ++half) {
        const float step = scale * static_cast<float>(block.scales.scale(group + half));
        const float offset = minimum * static_cast<float>(block.scales.minimum(group + half));
        float* to = out + (group + half) * 32;
        for (int i = 0; i < 32; ++i) {
          const int nibble = half == 0 ? low[i] & 15 : low[i] >> 4;
          const int fifth = (block.high[i] >> (group + half)) & 1;
          to[i] = step * static_cast<float>(nibble + fifth * 16) - offset;
        }
      }
    }
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales, float* offsets) {
    read_groups(block, scales, offsets);
    for (int group = 0; group < 8; ++group) {
      const uint8_t* low = block.low + group / 2 * 32;
      int8_t* to = quants + group * 32;
      for (int i = 0; i < 32; ++i) {
        const int nibble = group % 2 == 0 ? low[i] & 15 : low[i] >> 4;
        to[i] = static_cast<int8_t>(nibble + ((block.high[i] >> group) & 1) * 16);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    const AffineBlock fit = fit_affine(values, importance, {32, 31, 63});
    block.scale = fit.scale;
    block.minimum = fit.minimum;
    block.scales.pack(fit.scales, fit.minimums);
    for (int i = 0; i < 128; ++i) {
      const uint8_t* quants = fit.quants + i / 32 * 64 + i % 32;
      block.low[i] = static_cast<uint8_t>((quants[0] & 15) | ((quants[32] & 15) << 4));
    }
    for (int i = 0; i < 32; ++i) {
      int bits = 0;
      for (int group = 0; group < 8; ++group) bits |= (fit.quants[group * 32 + i] >> 4) << group;
      block.high[i] = static_cast<uint8_t>(bits);
    }
  }
};

}  // namespace sdcore::quant
