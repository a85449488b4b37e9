// q4_K: 256 numbers of 4 bits in eight groups of 32, each with a 6-bit scale and a 6-bit minimum;
// 4.5 bits a number.
//
//   byte 0        2         4             16                                   144
//        | scale  | minimum | scales[12]  | quants[128]                        |
//        | f16    | f16     | k_scales.h  | 32 bytes a pair of groups:         |
//        |        |         |             | low half: even group, high: odd    |
//
//   x[i] = scale * scales[g] * q[i] - minimum * minimums[g],  g = i / 32
#pragma once

#include "quant/k_scales.h"
#include "quant/k_search.h"

namespace sdcore::quant {

struct Q4_K {
  static constexpr int64_t block_size = 256;
  static constexpr int most_integer = 15;
  struct [[gnu::packed]] Block {
    f16 scale;
    f16 minimum;
    KScales scales;
    uint8_t quants[128];
  };
  static_assert(sizeof(Block) == 144);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    block.minimum = swapped(block.minimum);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale), minimum = to_float(block.minimum);
    for (int group = 0; group < 8; group += 2) {
      const uint8_t* quants = block.quants + group * 16;
      for (int half = 0; half < 2; ++half) {
        const float step = scale * static_cast<float>(block.scales.scale(group + half));
        const float low = minimum * static_cast<float>(block.scales.minimum(group + half));
        float* to = out + (group + half) * 32;
        for (int i = 0; i < 32; ++i) {
          to[i] = step * static_cast<float>(half == 0 ? quants[i] & 15 : quants[i] >> 4) - low;
        }
      }
    }
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales, float* offsets) {
    read_groups(block, scales, offsets);
    for (int pair = 0; pair < 4; ++pair) {
      const uint8_t* from = block.quants + pair * 32;
      int8_t* to = quants + pair * 64;
      for (int i = 0; i < 32; ++i) to[i] = static_cast<int8_t>(from[i] & 15);
      for (int i = 0; i < 32; ++i) to[i + 32] = static_cast<int8_t>(from[i] >> 4);
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    const AffineBlock fit = fit_affine(values, importance, {32, 15, 63});
    block.scale = fit.scale;
    block.minimum = fit.minimum;
    block.scales.pack(fit.scales, fit.minimums);
    for (int i = 0; i < 128; ++i) {
      const uint8_t* quants = fit.quants + i / 32 * 64 + i % 32;
      block.quants[i] = static_cast<uint8_t>(quants[0] | (quants[32] << 4));
    }
  }
};

}  // namespace sdcore::quant
