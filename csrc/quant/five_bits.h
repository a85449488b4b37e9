// The 32 numbers of 5 bits of q5_0 and q5_1.
//
//   byte 0                  4                                   20
//        | high[4]          | low[16]                           |
//        | bit i: 5th bit   | low half: i, high half: i + 16    |
#pragma once

#include "quant/format.h"

namespace sdcore::quant {

struct [[gnu::packed]] FiveBits {
  uint8_t high[4];
  uint8_t low[16];

  [[gnu::always_inline]] inline void unpack(uint8_t* __restrict quants) const {
    for (int i = 0; i < 16; ++i) {
      quants[i] = static_cast<uint8_t>((low[i] & 15) | (((high[i / 8] >> (i % 8)) & 1) << 4));
    }
    for (int i = 0; i < 16; ++i) {
      quants[i + 16] =
          static_cast<uint8_t>((low[i] >> 4) | (((high[2 + i / 8] >> (i % 8)) & 1) << 4));
    }
  }

  [[gnu::always_inline]] inline void pack(const uint8_t* quants) {
    for (int i = 0; i < 16; ++i) {
      low[i] = static_cast<uint8_t>((quants[i] & 15) | ((quants[i + 16] & 15) << 4));
    }
    for (int byte = 0; byte < 4; ++byte) {
      int bits = 0;
      for (int i = 0; i < 8; ++i) bits |= (quants[byte * 8 + i] >> 4) << i;
      high[byte] = static_cast<uint8_t>(bits);
    }
  }
};
static_assert(sizeof(FiveBits) == 20);

}  // namespace sdcore::quant
