// The eight pairs of 6-bit numbers, a scale and a minimum for each group of 32, that q4_K and q5_K
// keep in 12 bytes:
//
//   byte 0-3     high 2 bits of scale[4..7]   | scale[0..3]
//   byte 4-7     high 2 bits of minimum[4..7] | minimum[0..3]
//   byte 8-11    low 4 bits of minimum[4..7]  | low 4 bits of scale[4..7]
#pragma once

#include "quant/format.h"

namespace sdcore::quant {

struct [[gnu::packed]] KScales {
  uint8_t bytes[12];

  [[gnu::always_inline]] inline uint8_t scale(int group) const {
    if (group < 4) return bytes[group] & 63;
    return static_cast<uint8_t>((bytes[group + 4] & 15) | ((bytes[group - 4] >> 6) << 4));
  }

  [[gnu::always_inline]] inline uint8_t minimum(int group) const {
    if (group < 4) return bytes[group + 4] & 63;
    return static_cast<uint8_t>((bytes[group + 4] >> 4) | ((bytes[group] >> 6) << 4));
  }

  [[gnu::always_inline]] inline void pack(const uint8_t* scales, const uint8_t* minimums) {
    for (int i = 0; i < 4; ++i) {
      bytes[i] = static_cast<uint8_t>(scales[i] | ((scales[i + 4] >> 4) << 6));
      bytes[i + 4] = static_cast<uint8_t>(minimums[i] | ((minimums[i + 4] >> 4) << 6));
      bytes[i + 8] = static_cast<uint8_t>((scales[i + 4] & 15) | ((minimums[i + 4] & 15) << 4));
    }
  }
};
static_assert(sizeof(KScales) == 12);

// The scale and the offset of each group of a block that has them: x[i] = scale * q[i] + offset.
template <class Block>
[[gnu::always_inline]] inline void read_groups(const Block& __restrict block, float* scales,
                                               float* offsets) {
  const float scale = to_float(block.scale), minimum = to_float(block.minimum);
  for (int group = 0; group < 8; ++group) {
    scales[group] = scale * static_cast<float>(block.scales.scale(group));
    offsets[group] = -(minimum * static_cast<float>(block.scales.minimum(group)));
  }
}

}  // namespace sdcore::quant
