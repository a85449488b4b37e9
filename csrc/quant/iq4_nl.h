// iq4_nl: 32 numbers of 4 bits, on levels that lie closer together near zero, and one scale; 4.5
// bits a number.
//
//   byte 0        2                                   18
//        | scale  | quants[16]                        |
//        | f16    | low half: i, high half: i + 16    |
//
//   x[i] = scale * kIq4Levels[q[i]]
#pragma once

#include "quant/format.h"
#include "quant/k_search.h"

namespace sdcore::quant {

struct IQ4_NL {
  static constexpr int64_t block_size = 32;
  static constexpr int most_integer = 127;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t quants[16];
  };
  static_assert(sizeof(Block) == 18);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(kIq4Levels[block.quants[i] & 15]);
      out[i + 16] = scale * static_cast<float>(kIq4Levels[block.quants[i] >> 4]);
    }
  }

  SDCORE_FORMAT void integers(const Block& __restrict block, int8_t* __restrict quants,
                              float* scales) {
    scales[0] = to_float(block.scale);
    for (int i = 0; i < 16; ++i) {
      quants[i] = kIq4Levels[block.quants[i] & 15];
      quants[i + 16] = kIq4Levels[block.quants[i] >> 4];
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    const Iq4Group fit = fit_iq4_nl(values, importance);
    block.scale = fit.scale;
    for (int i = 0; i < 16; ++i) {
      block.quants[i] = static_cast<uint8_t>(fit.quants[i] | (fit.quants[i + 16] << 4));
    }
  }
};

}  // namespace sdcore::quant
