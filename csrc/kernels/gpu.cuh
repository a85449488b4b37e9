// What the kernels of every family share on a GPU. Included by exactly one file of each backend and
// family; all of it is in an anonymous namespace there, because the backends differ in what they
// mean by the same names.
#pragma once

#include "base/view.h"
#include "kernels/context.h"

#if defined(__CUDACC__)
#include "gpu/intrinsics.cuh"
#else
#include "gpu/emulation.h"
#endif

namespace sdcore {
namespace {

using gpu::launch;

// Numbers that a thread handles at once: 16 bytes of bf16.
constexpr int kVector = 8;

// Whether pixels of this view can be read and written in whole vectors.
inline bool is_vectorized(const View& v) {
  const auto whole = [](int64_t stride) { return stride % kVector == 0; };
  return whole(v.c) && whole(v.stride_n) && whole(v.stride_h) && whole(v.stride_w) &&
         reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
}

template <int n>
struct Values {
  float v[n];
};

struct alignas(16) Words {
  uint32_t w[4];
};

// n numbers from element `at` of a view's memory: one, or a vector.
template <int n>
__device__ __forceinline__ Values<n> load(const void* data, DType dtype, int64_t at) {
  Values<n> values;
  if constexpr (n == 1) {
    values.v[0] = dtype == DType::bf16 ? gpu::widen(static_cast<const bf16*>(data)[at])
                                       : static_cast<const float*>(data)[at];
  } else if (dtype == DType::bf16) {
    const Words words = *reinterpret_cast<const Words*>(static_cast<const bf16*>(data) + at);
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) {
      values.v[i] = gpu::widen(bf16{static_cast<uint16_t>(words.w[i / 2] >> (i % 2 * 16))});
    }
  } else {
    const auto* from = reinterpret_cast<const Words*>(static_cast<const float*>(data) + at);
    Words words[2] = {from[0], from[1]};
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) {
      values.v[i] = gpu::as_float(words[i / 4].w[i % 4]);
    }
  }
  return values;
}

template <int n>
__device__ __forceinline__ void store(void* data, DType dtype, int64_t at,
                                      const Values<n>& values) {
  if constexpr (n == 1) {
    if (dtype == DType::bf16) {
      static_cast<bf16*>(data)[at] = {
          static_cast<uint16_t>(gpu::pack_bf16(values.v[0], 0.0f) & 0xffffu)};
    } else {
      static_cast<float*>(data)[at] = values.v[0];
    }
  } else if (dtype == DType::bf16) {
    Words words;
    SDCORE_UNROLL
    for (int i = 0; i < 4; ++i) words.w[i] = gpu::pack_bf16(values.v[2 * i], values.v[2 * i + 1]);
    *reinterpret_cast<Words*>(static_cast<bf16*>(data) + at) = words;
  } else {
    auto* to = reinterpret_cast<Words*>(static_cast<float*>(data) + at);
    Words words[2];
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) {
      words[i / 4].w[i % 4] = gpu::as_bits(values.v[i]);
    }
    to[0] = words[0];
    to[1] = words[1];
  }
}

__device__ __forceinline__ float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::silu:
      return x / (1.0f + expf(-x));
    case Activation::gelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Activation::gelu_tanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case Activation::quick_gelu:
      return x / (1.0f + expf(-1.702f * x));
    case Activation::relu:
      return x > 0.0f ? x : 0.0f;
  }
  return x;
}

// The kind is chosen outside of the loop, so that the code of each is there once.
template <int n>
__device__ __forceinline__ void activate(Activation activation, Values<n>& values) {
  switch (activation) {
#define SDCORE_EACH(kind)                                                              \
  case Activation::kind:                                                               \
    SDCORE_UNROLL                                                                      \
    for (int i = 0; i < n; ++i) values.v[i] = activate(Activation::kind, values.v[i]); \
    return;
    SDCORE_EACH(silu)
    SDCORE_EACH(gelu)
    SDCORE_EACH(gelu_tanh)
    SDCORE_EACH(quick_gelu)
    SDCORE_EACH(relu)
#undef SDCORE_EACH
    case Activation::none:
      return;
  }
}

// The pixel of a view that has this number in reading order.
struct Pixel {
  int64_t n, h, w;
};
__device__ __forceinline__ Pixel pixel_at(uint32_t index, uint32_t h, uint32_t w) {
  const uint32_t row = index / w;
  return {row / h, row % h, index % w};
}
__device__ __forceinline__ int64_t element(const View& v, const Pixel& p) {
  return p.n * v.stride_n + p.h * v.stride_h + p.w * v.stride_w;
}

inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace
}  // namespace sdcore
