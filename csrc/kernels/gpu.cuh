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

// Numbers that a thread handles at once: 16 bytes of the types of 16 bits.
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

// n numbers from an address: one, or a vector.
template <int n>
__device__ __forceinline__ Values<n> load(const float* from) {
  Values<n> values;
  if constexpr (n == 1) {
    values.v[0] = *from;
  } else {
    const auto* at = reinterpret_cast<const Words*>(from);
    Words words[2] = {at[0], at[1]};
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) {
      values.v[i] = gpu::as_float(words[i / 4].w[i % 4]);
    }
  }
  return values;
}
// The same of the types of 16 bits.
template <int n, class T>
__device__ __forceinline__ Values<n> load(const T* from) {
  Values<n> values;
  if constexpr (n == 1) {
    values.v[0] = gpu::widen(*from);
  } else {
    const Words words = *reinterpret_cast<const Words*>(from);
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) {
      values.v[i] = gpu::widen(T{static_cast<uint16_t>(words.w[i / 2] >> (i % 2 * 16))});
    }
  }
  return values;
}

template <int n>
__device__ __forceinline__ void store(float* to, const Values<n>& values) {
  if constexpr (n == 1) {
    *to = values.v[0];
  } else {
    Words words[2];
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) {
      words[i / 4].w[i % 4] = gpu::as_bits(values.v[i]);
    }
    auto* at = reinterpret_cast<Words*>(to);
    at[0] = words[0];
    at[1] = words[1];
  }
}
template <int n, class T>
__device__ __forceinline__ void store(T* to, const Values<n>& values) {
  if constexpr (n == 1) {
    *to = {static_cast<uint16_t>(gpu::pack<T>(values.v[0], 0.0f) & 0xffffu)};
  } else {
    Words words;
    SDCORE_UNROLL
    for (int i = 0; i < 4; ++i) {
      words.w[i] = gpu::pack<T>(values.v[2 * i], values.v[2 * i + 1]);
    }
    *reinterpret_cast<Words*>(to) = words;
  }
}

// From and to element `at` of a view's memory.
template <int n>
__device__ __forceinline__ Values<n> load(const void* data, DType dtype, int64_t at) {
  if (dtype == DType::bf16) return load<n>(static_cast<const bf16*>(data) + at);
  if (dtype == DType::f16) return load<n>(static_cast<const f16*>(data) + at);
  return load<n>(static_cast<const float*>(data) + at);
}
template <int n>
__device__ __forceinline__ void store(void* data, DType dtype, int64_t at,
                                      const Values<n>& values) {
  if (dtype == DType::bf16) return store(static_cast<bf16*>(data) + at, values);
  if (dtype == DType::f16) return store(static_cast<f16*>(data) + at, values);
  store(static_cast<float*>(data) + at, values);
}

// Calls run(T{}) with T the type of 16 bits that tensor cores are to multiply.
template <class Run>
void with_half(DType dtype, const Run& run) {
  if (dtype == DType::f16) return run(f16{});
  run(bf16{});
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

// Over so many neighbouring lanes, a power of two.
__device__ __forceinline__ float sum_of_lanes(float x, int lanes) {
  SDCORE_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    if (mask < lanes) x += gpu::shuffle_xor(x, mask);
  }
  return x;
}
__device__ __forceinline__ float sum_of_warp(float x) { return sum_of_lanes(x, 32); }

inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace
}  // namespace sdcore
