// iq1_m: 256 numbers in sixteen groups of 16, each with a 3-bit scale; a point of a grid of 2048
// for every 8 numbers, moved by an eighth; 1.75 bits a number.
//
//   byte 0              32                          48                                        56
//        | points[32]:  | high[16], 4 bits a point: | scales[4], 16 bits, lowest byte first:  |
//        | low 8 bits   | 3 high bits of the point, | levels of 4 groups, 3 bits each, then   |
//        |              | then 1: moved down        | 4 bits of the f16 scale, lowest first   |
//
//   x[i] = scale * (2 * level + 1) * (coordinate +- 1 / 8)
#pragma once

#include "quant/codebook.h"
#include "quant/iq_grids.h"

namespace sdcore::quant {

struct IQ1_M {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    uint8_t points[32];
    uint8_t high[16];
    uint8_t scales[8];
  };
  static_assert(sizeof(Block) == 56);

  SDCORE_FORMAT void swap(Block&) {}

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    uint32_t words[4], bits = 0;
    for (int i = 0; i < 4; ++i) {
      words[i] = block.scales[i * 2] | uint32_t{block.scales[i * 2 + 1]} << 8;
      bits |= (words[i] >> 12) << (i * 4);
    }
    const float scale = to_float(f16{static_cast<uint16_t>(bits)});
    for (int p = 0; p < 32; ++p) {
      const int group = p / 2;
      const uint32_t level = (words[group / 4] >> (group % 4 * 3)) & 7;
      const float step = scale * static_cast<float>(2 * level + 1);
      const int high = block.high[group] >> (p % 2 * 4);
      const float shift = (high & 8) != 0 ? -kIq1Shift : kIq1Shift;
      const int point = block.points[p] | ((high & 7) << 8);
      const auto& coordinates = kIq1SGrid[static_cast<size_t>(point)];
      for (size_t i = 0; i < 8; ++i) {
        out[static_cast<size_t>(p) * 8 + i] = step * (static_cast<float>(coordinates[i]) + shift);
      }
    }
  }

  SDCORE_FORMAT void quantize(const float* values, const float* importance, Block& block) {
    static const Codebook book({.points = kIq1SGrid[0].data(),
                                .count = 2048,
                                .coordinates = 8,
                                .group = 16,
                                .most = 7,
                                .unit_factor = 1.0f,
                                .signs = CodebookShape::Signs::none,
                                .shift = kIq1Shift,
                                .shift_per_group = false});
    const CodebookBlock fit = book.fit(values, importance);
    block = {};
    for (int p = 0; p < 32; ++p) {
      const int down = fit.points[p] >= 2048 ? 8 : 0;
      block.points[p] = static_cast<uint8_t>(fit.points[p]);
      block.high[p / 2] |= static_cast<uint8_t>((((fit.points[p] >> 8) & 7) | down) << (p % 2 * 4));
    }
    for (int i = 0; i < 4; ++i) {
      int word = ((fit.unit >> (i * 4)) & 15) << 12;
      for (int g = 0; g < 4; ++g) word |= fit.levels[i * 4 + g] << (g * 3);
      block.scales[i * 2] = static_cast<uint8_t>(word);
      block.scales[i * 2 + 1] = static_cast<uint8_t>(word >> 8);
    }
  }
};

}  // namespace sdcore::quant
