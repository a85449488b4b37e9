// iq3_s: 256 numbers in eight groups of 32, each with a 4-bit scale; a point of a grid of 512 for
// every 4 numbers, and their signs; 3.4375 bits a number.
//
//   byte 0        2              66                     74           106                     110
//        | scale  | points[64]:  | high[8]: 9th bit of  | signs[32]  | levels[4]: even group |
//        | f16    | low 8 bits   | point p at bit p % 8 |            | low half, odd high    |
//
//   x[i] = scale * (2 * level + 1) * sign * coordinate
#pragma once

#include "quant/codebook.h"
#include "quant/iq_grids.h"

namespace sdcore::quant {

struct IQ3_S {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t points[64];
    uint8_t high[8];
    uint8_t signs[32];
    uint8_t levels[4];
  };
  static_assert(sizeof(Block) == 110);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int group = 0; group < 8; ++group) {
      const int level = (block.levels[group / 2] >> (group % 2 * 4)) & 15;
      const float step = scale * static_cast<float>(1 + 2 * level);
      for (int p = 0; p < 8; ++p) {
        const int at = group * 8 + p;
        const int point = block.points[at] | (((block.high[group] >> p) & 1) << 8);
        put_point(kIq3SGrid[static_cast<size_t>(point)], block.signs[at / 2] >> (p % 2 * 4), step,
                  out + at * 4);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    static const Codebook book({.points = kIq3SGrid[0].data(),
                                .count = 512,
                                .coordinates = 4,
                                .group = 32,
                                .most = 15,
                                .unit_factor = 1.0f});
    const CodebookBlock fit = book.fit(values, importance);
    block = {};
    block.scale.bits = fit.unit;
    for (int p = 0; p < 64; ++p) {
      block.points[p] = static_cast<uint8_t>(fit.points[p]);
      block.high[p / 8] |= static_cast<uint8_t>((fit.points[p] >> 8) << (p % 8));
    }
    for (int i = 0; i < 32; ++i) block.signs[i] = fit.signs[i];
    for (int i = 0; i < 4; ++i) {
      block.levels[i] = static_cast<uint8_t>(fit.levels[i * 2] | (fit.levels[i * 2 + 1] << 4));
    }
  }
};

}  // namespace sdcore::quant
