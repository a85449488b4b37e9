// What the norms share: vectors as they lie in memory, sums over lanes, and views as rows.
#pragma once

#include "kernels/gpu.cuh"
#include "kernels/norm/gpu.h"

// Before a loop of few turns, which the compiler is not to make many copies of.
#if defined(__CUDACC__)
#define SDCORE_KEEP_LOOP _Pragma("unroll 1")
#else
#define SDCORE_KEEP_LOOP
#endif

namespace sdcore::norm {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// A vector of channels as memory holds it: half the registers of its values in 16 bits.
template <class T>
struct Packed {
  Words words[sizeof(T) * kVector / 16];
};

template <class T>
__device__ __forceinline__ Packed<T> fetch(const T* from) {
  return *reinterpret_cast<const Packed<T>*>(from);
}
template <class T>
__device__ __forceinline__ Values<kVector> unpack(const Packed<T>& from) {
  return load<kVector>(reinterpret_cast<const T*>(from.words));
}
template <class T>
__device__ __forceinline__ Packed<T> packed(const Values<kVector>& values) {
  Packed<T> result;
  store(reinterpret_cast<T*>(result.words), values);
  return result;
}

// Calls run(T{}) with T the type of these numbers.
template <class Run>
void with_type(DType dtype, const Run& run) {
  if (dtype == DType::f32) return run(float{});
  with_half(dtype, run);
}

// The same pixels as one row where memory has them so: to find one takes no division then.
inline View as_row(View v) {
  if (v.h != 1 && v.stride_h != v.w * v.stride_w) return v;
  v.w *= v.h;
  v.h = 1;
  return v;
}

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace
}  // namespace sdcore::norm
