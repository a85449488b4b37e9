// tq1_0: 256 numbers that are -1, 0 or 1 times one scale; 1.6875 bits a number.
//
//   byte 0                         48                      52      54
//        | five[48]                | four[4]               | scale |
//        | 5 numbers a byte:       | 4 numbers a byte:     | f16   |
//        | 32 bytes: i % 32,       | i % 4 of the last 16  |       |
//        | 16 bytes: i % 16        |                       |       |
//
// A byte is ceil(n * 256 / 243), n being digits of base 3, the first number's digit the highest:
// the digit comes out of the top when the byte is multiplied by 3.
//
//   x[i] = scale * (digit[i] - 1)
#pragma once

#include <cmath>

#include "quant/format.h"

namespace sdcore::quant {

struct TQ1_0 {
  static constexpr int64_t block_size = 256;
  struct [[gnu::packed]] Block {
    uint8_t five[48];
    uint8_t four[4];
    f16 scale;
  };
  static_assert(sizeof(Block) == 54);

  SDCORE_FORMAT void swap(Block& block) { block.scale = swapped(block.scale); }

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = to_float(block.scale);
    unpack<32, 5>(block.five, scale, out);
    unpack<16, 5>(block.five + 32, scale, out + 160);
    unpack<4, 4>(block.four, scale, out + 240);
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    float furthest = 0.0f;
    for (int i = 0; i < 256; ++i) furthest = std::max(furthest, std::fabs(values[i]));
    const float inverse = furthest == 0.0f ? 0.0f : 1.0f / furthest;
    pack<32, 5>(values, inverse, block.five);
    pack<16, 5>(values + 160, inverse, block.five + 32);
    pack<4, 4>(values + 240, inverse, block.four);
    block.scale = to_f16(furthest);
  }

 private:
  static constexpr int kPowers[5] = {1, 3, 9, 27, 81};

  template <int bytes, int digits>
  SDCORE_FORMAT void unpack(const uint8_t* from, float scale, float* out) {
    for (int d = 0; d < digits; ++d) {
      for (int i = 0; i < bytes; ++i) {
        const auto shifted = static_cast<uint8_t>(from[i] * kPowers[d]);
        out[d * bytes + i] = scale * static_cast<float>(((shifted * 3) >> 8) - 1);
      }
    }
  }

  template <int bytes, int digits>
  SDCORE_FORMAT void pack(const float* values, float inverse, uint8_t* out) {
    for (int i = 0; i < bytes; ++i) {
      int number = 0;
      for (int d = 0; d < digits; ++d) {
        const float value = values[d * bytes + i] * inverse;
        const int size = round_away(std::fabs(value), 1.0f);
        number += (value < 0.0f ? 1 - size : 1 + size) * kPowers[4 - d];
      }
      out[i] = static_cast<uint8_t>((number * 256 + 242) / 243);
    }
  }
};

}  // namespace sdcore::quant
