// iq4_xs: 256 numbers of 4 bits, on the levels of iq4_nl, in eight groups of 32, each with a 6-bit
// scale; 4.25 bits a number.
//
//   byte 0        2                  4                    8                                136
//        | scale  | high             | low[4]             | quants[128], 16 a group        |
//        | f16    | 2 high bits of   | 4 low bits of      | low half: i % 32 < 16,         |
//        |        | group g, at bit  | even group: low    | high half: the others          |
//        |        | 2 * g            | half, odd: high    |                                |
//
//   x[i] = scale * (scales[g] - 32) * kIq4Levels[q[i]],  g = i / 32
#pragma once

#include "quant/format.h"
#include "quant/k_search.h"

namespace sdcore::quant {

struct IQ4_XS {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint16_t high;
    uint8_t low[4];
    uint8_t quants[128];
  };
  static_assert(sizeof(Block) == 136);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    block.high = swapped(block.high);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int group = 0; group < 8; ++group) {
      const int low_bits = (block.low[group / 2] >> (group % 2 * 4)) & 15;
      const int high_bits = (block.high >> (group * 2)) & 3;
      const float step = scale * static_cast<float>((low_bits | (high_bits << 4)) - 32);
      const uint8_t* quants = block.quants + group * 16;
      float* to = out + group * 32;
      for (int i = 0; i < 16; ++i) {
        to[i] = step * static_cast<float>(kIq4Levels[quants[i] & 15]);
        to[i + 16] = step * static_cast<float>(kIq4Levels[quants[i] >> 4]);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    const SymmetricBlock fit = fit_iq4_xs(values, importance);
    block = {};
    block.scale = fit.scale;
    int high = 0;
    for (int group = 0; group < 8; ++group) {
      const int scale = fit.scales[group] + 32;
      block.low[group / 2] |= static_cast<uint8_t>((scale & 15) << (group % 2 * 4));
      high |= (scale >> 4) << (group * 2);
      for (int i = 0; i < 16; ++i) {
        const uint8_t* quants = fit.quants + group * 32 + i;
        block.quants[group * 16 + i] = static_cast<uint8_t>(quants[0] | (quants[16] << 4));
      }
    }
    block.high = static_cast<uint16_t>(high);
  }
};

}  // namespace sdcore::quant
