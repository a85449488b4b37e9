// iq2_s: 256 numbers in sixteen groups of 16, each with a 4-bit scale; a point of a grid of 1024
// and 8 signs for every 8 numbers; 2.5625 bits a number.
//
//   byte 0        2              34           66                     74                      82
//        | scale  | points[32]:  | signs[32]  | high[8]: 2 high bits | levels[8]: even group |
//        | f16    | low 8 bits   |            | of point p, at bit   | low half, odd group   |
//        |        |              |            | 2 * (p % 4)          | high half             |
//
//   x[i] = scale / 8 * (2 * level + 1) * sign * coordinate
#pragma once

#include "quant/codebook.h"
#include "quant/iq_grids.h"

namespace sdcore::quant {

struct IQ2_S {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t points[32];
    uint8_t signs[32];
    uint8_t high[8];
    uint8_t levels[8];
  };
  static_assert(sizeof(Block) == 82);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int p = 0; p < 32; ++p) {
      const int level = (block.levels[p / 4] >> (p % 4 / 2 * 4)) & 15;
      const float step = scale * (0.5f + static_cast<float>(level)) * 0.25f;
      const int point = block.points[p] | (((block.high[p / 4] >> (p % 4 * 2)) & 3) << 8);
      put_point(kIq2SGrid[static_cast<size_t>(point)], block.signs[p], step, out + p * 8);
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    static const Codebook book({.points = kIq2SGrid[0].data(),
                                .count = 1024,
                                .coordinates = 8,
                                .group = 16,
                                .most = 15,
                                .unit_factor = 8.0f});
    const CodebookBlock fit = book.fit(values, importance);
    block = {};
    block.scale.bits = fit.unit;
    for (int p = 0; p < 32; ++p) {
      block.points[p] = static_cast<uint8_t>(fit.points[p]);
      block.signs[p] = fit.signs[p];
      block.high[p / 4] |= static_cast<uint8_t>((fit.points[p] >> 8) << (p % 4 * 2));
    }
    for (int i = 0; i < 8; ++i) {
      block.levels[i] = static_cast<uint8_t>(fit.levels[i * 2] | (fit.levels[i * 2 + 1] << 4));
    }
  }
};

}  // namespace sdcore::quant
