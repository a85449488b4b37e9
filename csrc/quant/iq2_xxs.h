// iq2_xxs: 256 numbers in eight groups of 32, each with a 4-bit scale; a point of a grid of 256 for
// every 8 numbers, an even number of which is negative; 2.0625 bits a number.
//
//   byte 0        2                                                              66
//        | scale  | words[32], 4 a group:                                        |
//        | f16    | 2 words: 4 points of 8 bits                                  |
//        |        | 2 words: 4 times 7 bits of signs, then 4 bits of level       |
//
//   x[i] = scale / 8 * (2 * level + 1) * sign * coordinate
#pragma once

#include "quant/codebook.h"
#include "quant/iq_grids.h"

namespace sdcore::quant {

struct IQ2_XXS {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint16_t words[32];
  };
  static_assert(sizeof(Block) == 66);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    for (int i = 0; i < 32; ++i) block.words[i] = swapped(block.words[i]);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int group = 0; group < 8; ++group) {
      const int at = group * 4;
      const uint32_t signs = block.words[at + 2] | uint32_t{block.words[at + 3]} << 16;
      const float step = scale * (0.5f + static_cast<float>(signs >> 28)) * 0.25f;
      for (int p = 0; p < 4; ++p) {
        const int point = (block.words[at + p / 2] >> (p % 2 * 8)) & 255;
        put_point(kIq2XxsGrid[static_cast<size_t>(point)], even_signs((signs >> (p * 7)) & 127),
                  step, out + group * 32 + p * 8);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    static const Codebook book({.points = kIq2XxsGrid[0].data(),
                                .count = 256,
                                .coordinates = 8,
                                .group = 32,
                                .most = 15,
                                .unit_factor = 8.0f,
                                .signs = CodebookShape::Signs::even});
    const CodebookBlock fit = book.fit(values, importance);
    block.scale.bits = fit.unit;
    for (int group = 0; group < 8; ++group) {
      const uint16_t* points = fit.points + group * 4;
      uint32_t signs = static_cast<uint32_t>(fit.levels[group]) << 28;
      for (int p = 0; p < 4; ++p) signs |= (fit.signs[group * 4 + p] & 127u) << (p * 7);
      block.words[group * 4] = static_cast<uint16_t>(points[0] | (points[1] << 8));
      block.words[group * 4 + 1] = static_cast<uint16_t>(points[2] | (points[3] << 8));
      block.words[group * 4 + 2] = static_cast<uint16_t>(signs);
      block.words[group * 4 + 3] = static_cast<uint16_t>(signs >> 16);
    }
  }
};

}  // namespace sdcore::quant
