// Quantized weights on a GPU: sixteen numbers of a row out of its blocks, which stay as they lie in
// the file (csrc/quant has the pictures). Blocks lie at even addresses and not at better ones.
#pragma once

#include "kernels/gpu.cuh"
#include "quant/types.h"

namespace sdcore::gemm {
namespace {

__device__ __forceinline__ float half_at(const uint8_t* p) {
  return gpu::widen(f16{static_cast<uint16_t>(p[0] | p[1] << 8)});
}

// The 6-bit scale and minimum of a group of 32 in q4_K and q5_K.
struct KPair {
  int scale, minimum;
};
__device__ __forceinline__ KPair k_pair(const uint8_t* s, int group) {
  if (group < 4) return {s[group] & 63, s[group + 4] & 63};
  return {(s[group + 4] & 15) | (s[group - 4] >> 6) << 4, (s[group + 4] >> 4) | (s[group] >> 6)
                                                                                    << 4};
}

// Each has: numbers [at, at + 16) of a row of blocks; `at` is a multiple of 16.
struct Q8_0 {
  __device__ static void unpack(const uint8_t* row, int at, float (&to)[16]) {
    const uint8_t* block = row + at / 32 * 34;
    const float scale = half_at(block);
    const uint8_t* quants = block + 2 + at % 32;
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      to[i] = scale * static_cast<float>(static_cast<int8_t>(quants[i]));
    }
  }
};

struct Q4_0 {
  __device__ static void unpack(const uint8_t* row, int at, float (&to)[16]) {
    const uint8_t* block = row + at / 32 * 18;
    const float scale = half_at(block);
    const int shift = at % 32 / 16 * 4;
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      to[i] = scale * static_cast<float>((block[2 + i] >> shift & 15) - 8);
    }
  }
};

struct Q4_K {
  __device__ static void unpack(const uint8_t* row, int at, float (&to)[16]) {
    const uint8_t* block = row + at / 256 * 144;
    const int group = at % 256 / 32;
    const KPair pair = k_pair(block + 4, group);
    const float step = half_at(block) * static_cast<float>(pair.scale);
    const float low = half_at(block + 2) * static_cast<float>(pair.minimum);
    const uint8_t* quants = block + 16 + group / 2 * 32 + at % 32;
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      to[i] = step * static_cast<float>(quants[i] >> (group % 2 * 4) & 15) - low;
    }
  }
};

struct Q5_K {
  __device__ static void unpack(const uint8_t* row, int at, float (&to)[16]) {
    const uint8_t* block = row + at / 256 * 176;
    const int group = at % 256 / 32;
    const KPair pair = k_pair(block + 4, group);
    const float step = half_at(block) * static_cast<float>(pair.scale);
    const float low = half_at(block + 2) * static_cast<float>(pair.minimum);
    const uint8_t* high = block + 16 + at % 32;
    const uint8_t* quants = block + 48 + group / 2 * 32 + at % 32;
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int nibble = quants[i] >> (group % 2 * 4) & 15, fifth = high[i] >> group & 1;
      to[i] = step * static_cast<float>(nibble + fifth * 16) - low;
    }
  }
};

struct Q6_K {
  __device__ static void unpack(const uint8_t* row, int at, float (&to)[16]) {
    const uint8_t* block = row + at / 256 * 210;
    const int in_block = at % 256, half = in_block / 128, j = in_block % 128;
    const auto scale = static_cast<float>(static_cast<int8_t>(block[192 + in_block / 16]));
    const float step = half_at(block + 208) * scale;
    const uint8_t* low = block + half * 64 + j % 64;
    const uint8_t* high = block + 128 + half * 32 + j % 32;
    const int low_shift = j / 64 * 4, high_shift = j / 32 * 2;
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      to[i] = step * static_cast<float>(value - 32);
    }
  }
};

}  // namespace
}  // namespace sdcore::gemm
