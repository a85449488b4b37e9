// q2_K: 256 numbers of 2 bits in sixteen groups of 16, each with a 4-bit scale and a 4-bit minimum;
// 2.625 bits a number. The two halves of 128 numbers are laid out alike; in each, j = i % 128:
//
//   byte 0                      16                          80       82        84
//        | scales[16]           | quants[64], 32 a half     | scale  | minimum |
//        | low half: scale,     | byte j % 32,              | f16    | f16     |
//        | high half: minimum   | at bit 2 * (j / 32)       |        |         |
//
//   x[i] = scale * scales[g] * q[i] - minimum * minimums[g],  g = i / 16
#pragma once

#include "quant/format.h"
#include "quant/k_search.h"

namespace sdcore::quant {

struct Q2_K {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    uint8_t scales[16];
    uint8_t quants[64];
    f16 scale;
    f16 minimum;
  };
  static_assert(sizeof(Block) == 84);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    block.minimum = swapped(block.minimum);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale), minimum = to_float(block.minimum);
    for (int group = 0; group < 16; ++group) {
      const float step = scale * static_cast<float>(block.scales[group] & 15);
      const float low = minimum * static_cast<float>(block.scales[group] >> 4);
      const uint8_t* quants = block.quants + group / 8 * 32 + group % 2 * 16;
      const int shift = group % 8 / 2 * 2;
      SDCORE_KEEP_LOOP
      for (int i = 0; i < 16; ++i) {
        out[group * 16 + i] = step * static_cast<float>((quants[i] >> shift) & 3) - low;
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    const AffineBlock fit = fit_affine(values, importance, {16, 3, 15});
    block.scale = fit.scale;
    block.minimum = fit.minimum;
    for (int group = 0; group < 16; ++group) {
      block.scales[group] = static_cast<uint8_t>(fit.scales[group] | (fit.minimums[group] << 4));
    }
    for (int byte = 0; byte < 64; ++byte) {
      const uint8_t* quants = fit.quants + byte / 32 * 128 + byte % 32;
      block.quants[byte] = static_cast<uint8_t>(quants[0] | (quants[32] << 2) | (quants[64] << 4) |
                                                (quants[96] << 6));
    }
  }
};

}  // namespace sdcore::quant
