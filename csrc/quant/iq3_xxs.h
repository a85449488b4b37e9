// iq3_xxs: 256 numbers in eight groups of 32, each with a 4-bit scale; a point of a grid of 256 for
// every 4 numbers; of every 8 an even number is negative; 3.0625 bits a number.
//
//   byte 0        2              66                                                  98
//        | scale  | points[64]   | signs[32], 4 bytes a group, lowest first:         |
//        | f16    |              | 4 times 7 bits of signs, then 4 bits of level     |
//
//   x[i] = scale / 4 * (2 * level + 1) * sign * coordinate
#pragma once

#include "quant/codebook.h"
#include "quant/iq_grids.h"

namespace sdcore::quant {

struct IQ3_XXS {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t points[64];
    uint8_t signs[32];
  };
  static_assert(sizeof(Block) == 98);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int group = 0; group < 8; ++group) {
      uint32_t signs = 0;
      for (int i = 0; i < 4; ++i) signs |= uint32_t{block.signs[group * 4 + i]} << (i * 8);
      const float step = scale * (0.5f + static_cast<float>(signs >> 28)) * 0.5f;
      for (int p = 0; p < 8; ++p) {
        const int eight = even_signs((signs >> (p / 2 * 7)) & 127);
        put_point(kIq3XxsGrid[block.points[group * 8 + p]], eight >> (p % 2 * 4), step,
                  out + group * 32 + p * 4);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    static const Codebook book({.points = kIq3XxsGrid[0].data(),
                                .count = 256,
                                .coordinates = 4,
                                .group = 32,
                                .most = 15,
                                .unit_factor = 4.0f,
                                .signs = CodebookShape::Signs::even});
    const CodebookBlock fit = book.fit(values, importance);
    block.scale.bits = fit.unit;
    for (int i = 0; i < 64; ++i) block.points[i] = static_cast<uint8_t>(fit.points[i]);
    for (int group = 0; group < 8; ++group) {
      uint32_t signs = static_cast<uint32_t>(fit.levels[group]) << 28;
      for (int i = 0; i < 4; ++i) signs |= (fit.signs[group * 4 + i] & 127u) << (i * 7);
      for (int i = 0; i < 4; ++i) {
        block.signs[group * 4 + i] = static_cast<uint8_t>(signs >> (i * 8));
      }
    }
  }
};

}  // namespace sdcore::quant
