// The 32 numbers of 5 bits of q5_0 and q5_1.
//
//   byte 0                  4                                   20
//        | high[4]          | low[16]                           |
//        | bit i: 5th bit   | low half: i, high half: i + 16    |
#pragma once

#include <bit>
#include <cstring>

#include "quant/format.h"

namespace sdcore::quant {

struct [[gnu::packed]] FiveBits {
  uint8_t high[4];
  uint8_t low[16];

  [[gnu::always_inline]] inline void unpack(uint8_t* __restrict quants) const {
    // Eight at a time in one integer: GCC would move each byte alone.
    static_assert(std::endian::native == std::endian::little);
    for (int byte = 0; byte < 4; ++byte) {
      // Bit i to byte i of eight, and from there to its bit 4.
      const uint64_t bits = (high[byte] * 0x0101010101010101u) & 0x8040201008040201u;
      const uint64_t fifth = ((bits + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
      uint64_t four;
      std::memcpy(&four, low + byte % 2 * 8, 8);
      four = ((byte < 2 ? four : four >> 4) & 0x0f0f0f0f0f0f0f0fu) | fifth;
      std::memcpy(quants + byte * 8, &four, 8);
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
