// iq2_xs: 256 numbers in sixteen groups of 16, each with a 4-bit scale; a point of a grid of 512
// for every 8 numbers, an even number of which is negative; 2.3125 bits a number.
//
//   byte 0        2                            66                          74
//        | scale  | words[32], 2 a group:      | levels[8]: even group in  |
//        | f16    | 9 bits of point,           | the low half, odd in the  |
//        |        | 7 bits of signs            | high half                 |
//
//   x[i] = scale / 8 * (2 * level + 1) * sign * coordinate
#pragma once

#include "quant/codebook.h"
#include "quant/iq_grids.h"

namespace sdcore::quant {

struct IQ2_XS {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint16_t words[32];
    uint8_t levels[8];
  };
  static_assert(sizeof(Block) == 74);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    for (int i = 0; i < 32; ++i) block.words[i] = swapped(block.words[i]);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int group = 0; group < 16; ++group) {
      const int level = (block.levels[group / 2] >> (group % 2 * 4)) & 15;
      const float step = scale * (0.5f + static_cast<float>(level)) * 0.25f;
      for (int p = 0; p < 2; ++p) {
        const uint16_t word = block.words[group * 2 + p];
        put_point(kIq2XsGrid[word & 511u], even_signs(word >> 9), step, out + group * 16 + p * 8);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    static const Codebook book({.points = kIq2XsGrid[0].data(),
                                .count = 512,
                                .coordinates = 8,
                                .group = 16,
                                .most = 15,
                                .unit_factor = 8.0f,
                                .signs = CodebookShape::Signs::even});
    const CodebookBlock fit = book.fit(values, importance);
    block.scale.bits = fit.unit;
    for (int i = 0; i < 32; ++i) {
      block.words[i] = static_cast<uint16_t>(fit.points[i] | ((fit.signs[i] & 127) << 9));
    }
    for (int i = 0; i < 8; ++i) {
      block.levels[i] = static_cast<uint8_t>(fit.levels[i * 2] | (fit.levels[i * 2 + 1] << 4));
    }
  }
};

}  // namespace sdcore::quant
