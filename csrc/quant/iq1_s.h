// iq1_s: 256 numbers in eight groups of 32, each with a 3-bit scale; a point of a grid of 2048 for
// every 8 numbers, moved by an eighth, the points of a group all alike; 1.5625 bits a number.
//
//   byte 0        2              34                                              50
//        | scale  | points[32]:  | high[8], 16 bits a group: 3 high bits of      |
//        | f16    | low 8 bits   | 4 points, then level, then 1: moved down      |
//
//   x[i] = scale * (2 * level + 1) * (coordinate +- 1 / 8)
#pragma once

#include "quant/codebook.h"
#include "quant/iq_grids.h"

namespace sdcore::quant {

struct IQ1_S {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    f16 scale;
    uint8_t points[32];
    uint16_t high[8];
  };
  static_assert(sizeof(Block) == 50);

  SDCORE_FORMAT void swap(Block& block) {
    block.scale = swapped(block.scale);
    for (int i = 0; i < 8; ++i) block.high[i] = swapped(block.high[i]);
  }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    for (int group = 0; group < 8; ++group) {
      const int high = block.high[group];
      const float step = scale * static_cast<float>(2 * ((high >> 12) & 7) + 1);
      const float shift = (high >> 15) != 0 ? -kIq1Shift : kIq1Shift;
      for (int p = 0; p < 4; ++p) {
        const int point = block.points[group * 4 + p] | (((high >> (p * 3)) & 7) << 8);
        const auto& coordinates = kIq1SGrid[static_cast<size_t>(point)];
        float* to = out + group * 32 + p * 8;
        for (size_t i = 0; i < 8; ++i) {
          to[i] = step * (static_cast<float>(coordinates[i]) + shift);
        }
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    static const Codebook book({.points = kIq1SGrid[0].data(),
                                .count = 2048,
                                .coordinates = 8,
                                .group = 32,
                                .most = 7,
                                .unit_factor = 1.0f,
                                .signs = CodebookShape::Signs::none,
                                .shift = kIq1Shift});
    const CodebookBlock fit = book.fit(values, importance);
    block.scale.bits = fit.unit;
    for (int group = 0; group < 8; ++group) {
      const uint16_t* points = fit.points + group * 4;
      int high = (fit.levels[group] << 12) | (points[0] >= 2048 ? 1 << 15 : 0);
      for (int p = 0; p < 4; ++p) {
        block.points[group * 4 + p] = static_cast<uint8_t>(points[p]);
        high |= ((points[p] >> 8) & 7) << (p * 3);
      }
      block.high[group] = static_cast<uint16_t>(high);
    }
  }
};

}  // namespace sdcore::quant
