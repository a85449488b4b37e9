// mxfp4: 32 numbers that are 4-bit floats with one power of two as their scale (OCP Microscaling
// specification, version 1.0); 4.25 bits a number.
//
//   byte 0           1                                   17
//        | exponent  | quants[16]                        |
//        | bias 128  | low half: i, high half: i + 16    |
//
//   x[i] = 2 ^ (exponent - 128) * kFp4[q[i]]
#pragma once

#include "quant/fp4.h"

namespace sdcore::quant {

struct MXFP4 {
  static constexpr int64_t block_size = 32;
  struct [[gnu::packed]] Block {
    uint8_t exponent;
    uint8_t quants[16];
  };
  static_assert(sizeof(Block) == 17);

  SDCORE_FORMAT void swap(Block&) {}

  SDCORE_FORMAT void dequantize(const Block& __restrict block, float* __restrict out) {
    const float scale = power(block.exponent);
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>(kFp4[block.quants[i] & 15]);
    }
    SDCORE_KEEP_LOOP
    for (int i = 0; i < 16; ++i) {
      out[i + 16] = scale * static_cast<float>(kFp4[block.quants[i] >> 4]);
    }
  }

  SDCORE_FORMAT void quantize(const float* __restrict values, Block& __restrict block) {
    float furthest = 0.0f, error;
    for (int i = 0; i < 32; ++i) furthest = std::max(furthest, std::fabs(values[i]));
    const float exponent = furthest > 0.0f ? std::floor(std::log2(furthest)) + 125.0f : 0.0f;
    block.exponent = truncate(exponent, 255.0f);
    const float scale = power(block.exponent);
    for (int i = 0; i < 16; ++i) {
      const uint8_t low = nearest_fp4(values[i], scale, error);
      const uint8_t high = nearest_fp4(values[i + 16], scale, error);
      block.quants[i] = static_cast<uint8_t>(low | (high << 4));
    }
  }

 private:
  SDCORE_FORMAT float power(uint8_t exponent) {
    const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1u) << 23;
    return std::bit_cast<float>(bits);
  }
};

}  // namespace sdcore::quant
