// q3_K: 256 numbers of 3 bits in sixteen groups of 16, each with a 6-bit scale; 3.4375 bits a
// number. The two halves of 128 numbers are laid out alike; in each, j = i % 128:
//
//   byte 0                  32                      96                              108     110
//        | high[32]         | low[64], 32 a half    | scales[12]                    | scale |
//        | bit i / 32 of    | byte j % 32,          | 8 bytes: low 4 bits of g and  | f16   |
//        | byte i % 32:     | at bit 2 * (j / 32)   | g + 8; 4 bytes: high 2 bits   |       |
//        | the 3rd bit      |                       | of g % 4, at bit 2 * (g / 4)  |       |
//
//   x[i] = scale * (scales[g] - 32) * (q[i] - 4),  g = i / 16
#pragma once

#include "quant/format.h"
#include "quant/k_search.h"

namespace sdcore::quant {

struct Q3_K {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    uint8_t high[32];
    uint8_t low[64];
    uint8_t scales[12];
    f16 scale;
  };
  static_assert(sizeof(Block) == 110);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int group = 0; group < 16; ++group) {
      const int low_bits = (block.scales[group % 8] >> (group / 8 * 4)) & 15;
      const int high_bits = (block.scales[8 + group % 4] >> (group / 4 * 2)) & 3;
      const float step = scale * static_cast<float>((low_bits | (high_bits << 4)) - 32);
      const uint8_t* low = block.low + group / 8 * 32 + group % 2 * 16;
      const uint8_t* high = block.high + group % 2 * 16;
      const int shift = group % 8 / 2 * 2, third = group / 2;
      SDCORE_KEEP_LOOP
      for (int i = 0; i < 16; ++i) {
        const int quant = ((low[i] >> shift) & 3) | (((high[i] >> third) & 1) << 2);
        out[group * 16 + i] = step * static_cast<float>(quant - 4);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    const SymmetricBlock fit = fit_q3_k(values, importance);
    block = {};
    block.scale = fit.scale;
    for (int group = 0; group < 16; ++group) {
      const int scale = fit.scales[group] + 32;
      block.scales[group % 8] |= static_cast<uint8_t>((scale & 15) << (group / 8 * 4));
      block.scales[8 + group % 4] |= static_cast<uint8_t>((scale >> 4) << (group / 4 * 2));
    }
    for (int i = 0; i < 256; ++i) {
      const int quant = fit.quants[i];
      block.low[i / 128 * 32 + i % 32] |= static_cast<uint8_t>((quant & 3) << (i % 128 / 32 * 2));
      block.high[i % 32] |= static_cast<uint8_t>((quant >> 2) << (i / 32));
    }
  }
};

}  // namespace sdcore::quant
