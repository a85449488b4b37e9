// nvfp4: 64 numbers that are 4-bit floats in four groups of 16, each with an 8-bit float as its
// scale; 4.5 bits a number.
//
//   byte 0                         4                                           36
//        | scales[4]               | quants[32]: 8 bytes a group               |
//        | 4 bits of exponent,     | low half: i % 16, high half: i % 16 + 8   |
//        | 3 of mantissa, no sign  |                                           |
//
//   x[i] = scales[i / 16] / 2 * kFp4[q[i]]
#pragma once

#include "quant/fp4.h"

namespace sdcore::quant {

struct NVFP4 {
  static constexpr int64_t block_size = 64;
  struct [[gnu::packed]] Block {
    uint8_t scales[4];
    uint8_t quants[32];
  };
  static_assert(sizeof(Block) == 36);

  SDCORE_FORMAT void swap(Block&) {}

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    for (int group = 0; group < 4; ++group) {
      const float scale = half_of(block.scales[group]);
      const uint8_t* quants = block.quants + group * 8;
      float* to = out + group * 16;
      for (int i = 0; i < 8; ++i) to[i] = scale * static_cast<float>(kFp4[quants[i] & 15]);
      for (int i = 0; i < 8; ++i) to[i + 8] = scale * static_cast<float>(kFp4[quants[i] >> 4]);
    }
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    for (int group = 0; group < 4; ++group) {
      quantize_group(values + group * 16, block.scales[group], block.quants + group * 8);
    }
  }

 private:
  static constexpr int kMost = 0x7e;  // 0x7f would be NaN

  // Half the scale, as the numbers of kFp4 are doubled. Bit 7 has no meaning.
  SDCORE_FORMAT float half_of(uint8_t scale) {
    if (scale == 0x7f) return 0.0f;
    const int exponent = (scale >> 3) & 15, mantissa = scale & 7;
    if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
    const auto bits = static_cast<uint32_t>(exponent - 8 + 127) << 23;
    return std::bit_cast<float>(bits) * (1.0f + static_cast<float>(mantissa) / 8.0f);
  }

  // The number furthest from zero becomes 6, the largest, or near it: whichever of the scales
  // around that leaves the least squared error.
  SDCORE_FORMAT void quantize_group(const float* __restrict values, uint8_t& scale,
                                    uint8_t* __restrict quants) {
    float furthest = 0.0f;
    for (int i = 0; i < 16; ++i) furthest = std::max(furthest, std::fabs(values[i]));
    int first = 0;
    while (first < kMost && half_of(static_cast<uint8_t>(first)) * 12.0f < furthest) ++first;
    float least = 0.0f;
    const int begin = std::max(first - 3, 0), end = std::min(first + 6, kMost);
    for (int code = begin; code <= end; ++code) {
      const float half = half_of(static_cast<uint8_t>(code));
      float sum = 0.0f, error;
      uint8_t nearest[16];
      for (int i = 0; i < 16; ++i) {
        nearest[i] = nearest_fp4(values[i], half, error);
        sum += error * error;
      }
      if (code > begin && !(sum < least)) continue;
      least = sum;
      scale = static_cast<uint8_t>(code);
      for (int i = 0; i < 8; ++i) {
        quants[i] = static_cast<uint8_t>(nearest[i] | (nearest[i + 8] << 4));
      }
    }
  }
};

}  // namespace sdcore::quant
