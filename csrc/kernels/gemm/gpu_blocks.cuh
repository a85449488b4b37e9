// Quantized weights on a GPU: sixteen numbers of a row out of its blocks, which stay as they lie in
// the file (csrc/quant has the pictures).
#pragma once

#include "kernels/gemm/gpu.h"
#include "kernels/gpu.cuh"
#include "quant/types.h"

namespace sdcore::gemm {
namespace {

struct Bytes {
  uint8_t b[16];
};
// Blocks of most types lie at even addresses and not at better ones.
__device__ __forceinline__ Bytes bytes_at(const uint8_t* p) {
  const auto* pairs = reinterpret_cast<const uint16_t*>(p);
  Bytes bytes;
  SDCORE_UNROLL
  for (int i = 0; i < 16; ++i) bytes.b[i] = static_cast<uint8_t>(pairs[i / 2] >> (i % 2 * 8));
  return bytes;
}
// Those of q4_K and q5_K are multiples of 16 bytes.
__device__ __forceinline__ Bytes aligned_bytes_at(const uint8_t* p) {
  const Words words = *reinterpret_cast<const Words*>(p);
  Bytes bytes;
  SDCORE_UNROLL
  for (int i = 0; i < 16; ++i) bytes.b[i] = static_cast<uint8_t>(words.w[i / 4] >> (i % 4 * 8));
  return bytes;
}

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
    const Bytes quants = bytes_at(block + 2 + at % 32);
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      to[i] = scale * static_cast<float>(static_cast<int8_t>(quants.b[i]));
    }
  }
};

struct Q4_0 {
  __device__ static void unpack(const uint8_t* row, int at, float (&to)[16]) {
    const uint8_t* block = row + at / 32 * 18;
    const float scale = half_at(block);
    const int shift = at % 32 / 16 * 4;
    const Bytes quants = bytes_at(block + 2);
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      to[i] = scale * static_cast<float>((quants.b[i] >> shift & 15) - 8);
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
    const Bytes quants = aligned_bytes_at(block + 16 + group / 2 * 32 + at % 32);
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      to[i] = step * static_cast<float>(quants.b[i] >> (group % 2 * 4) & 15) - low;
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
    const Bytes high = aligned_bytes_at(block + 16 + at % 32);
    const Bytes quants = aligned_bytes_at(block + 48 + group / 2 * 32 + at % 32);
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int nibble = quants.b[i] >> (group % 2 * 4) & 15, fifth = high.b[i] >> group & 1;
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
    const Bytes low = bytes_at(block + half * 64 + j % 64);
    const Bytes high = bytes_at(block + 128 + half * 32 + j % 32);
    const int low_shift = j / 64 * 4, high_shift = j / 32 * 2;
    SDCORE_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int value = (low.b[i] >> low_shift & 15) | (high.b[i] >> high_shift & 3) << 4;
      to[i] = step * static_cast<float>(value - 32);
    }
  }
};

// Numbers [at, at + 16) of the weight of one output, whatever it lies as.
template <class E>
struct DenseRows {
  __device__ static void unpack(const GpuProduct& p, int64_t output, int at, float (&to)[16]) {
    const auto* from = static_cast<const E*>(p.weight) + output * p.padded_inputs + at;
    SDCORE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const auto numbers = load<kVector>(from + half * kVector);
      SDCORE_UNROLL
      for (int k = 0; k < kVector; ++k) to[half * kVector + k] = numbers.v[k];
    }
  }
};
template <class Format>
struct BlockRows {
  __device__ static void unpack(const GpuProduct& p, int64_t output, int at, float (&to)[16]) {
    Format::unpack(static_cast<const uint8_t*>(p.weight) + output * p.row_bytes, at, to);
  }
};

template <class E>
__device__ __forceinline__ void store_sixteen(E* to, const float (&numbers)[16]) {
  Words words[2];
  SDCORE_UNROLL
  for (int k = 0; k < 8; ++k) {
    words[k / 4].w[k % 4] = gpu::pack<E>(numbers[2 * k], numbers[2 * k + 1]);
  }
  reinterpret_cast<Words*>(to)[0] = words[0];
  reinterpret_cast<Words*>(to)[1] = words[1];
}

}  // namespace
}  // namespace sdcore::gemm
