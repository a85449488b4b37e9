// The instructions of NVIDIA's GPUs that CUDA C++ has no words for, as functions; their meaning is
// in NVIDIA's PTX ISA. emulation.h has the same functions for a C++ compiler.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "base/half.h"
#include "gpu/device.h"

// Before a loop whose indices name registers.
#define SDCORE_UNROLL _Pragma("unroll")

namespace sdcore::gpu {
namespace {

using ::dim3;

inline constexpr Backend kBackend = Backend::cuda;

// Runs `kernel` on the device's stream with so many bytes of dynamic shared memory.
template <class... Parameters, class... Args>
void launch(Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            const Args&... args) {
  cudaError_t status = cudaSuccess;
  if (shared > 48 * 1024) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared));
  }
  if (status == cudaSuccess) {
    kernel<<<grid, block, shared, static_cast<cudaStream_t>(device.stream())>>>(args...);
    status = cudaGetLastError();
  }
  require(status == cudaSuccess, ErrorKind::internal,
          "[cuda] launching a kernel: ", cudaGetErrorString(status));
}

// The dynamic shared memory of a block, aligned for any access.
__device__ __forceinline__ std::byte* shared_memory() {
  extern __shared__ __align__(128) unsigned char sdcore_shared_memory[];
  return reinterpret_cast<std::byte*>(sdcore_shared_memory);
}

__device__ __forceinline__ void wait_for_block() { __syncthreads(); }
__device__ __forceinline__ void wait_for_warp() { __syncwarp(); }

__device__ __forceinline__ float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

__device__ __forceinline__ float as_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t as_bits(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float widen(bf16 value) {
  return as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float widen(f16 value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

// 1 / (1 + e^-x) with an error that no type of 16 bits shows.
__device__ __forceinline__ float sigmoid(float x) {
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-1.44269504f * x));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.0f + power));
  return result;
}

// Two numbers as T, bf16 or f16, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t pair;
  if constexpr (std::is_same_v<T, f16>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// sum += a · b for a warp: a is 16 x 16 and b 16 x 8, both T, in the fragments of mma.m16n8k16.
template <class T>
__device__ __forceinline__ void mma(float (&sum)[4], const uint32_t (&a)[4],
                                    const uint32_t (&b)[2]) {
#define SDCORE_MMA(type)                                                    \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type       \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (std::is_same_v<T, f16>) {
    SDCORE_MMA("f16");
  } else {
    SDCORE_MMA("bf16");
  }
#undef SDCORE_MMA
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory; lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes from global to shared memory, or zeros; both addresses are aligned to 16.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(present ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most so many of this thread's groups of copies are under way.
template <int groups>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// Whether this thread is the first to claim a word that was 0.
__device__ __forceinline__ bool claim(uint32_t* word, uint32_t value) {
  return atomicCAS(word, 0u, value) == 0u;
}

}  // namespace
}  // namespace sdcore::gpu
