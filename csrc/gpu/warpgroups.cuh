// wgmma of compute capability 9.0a, after NVIDIA's PTX ISA, "Asynchronous warpgroup level matrix
// instructions"; emulated_warpgroups.h has the same functions for a C++ compiler.
#pragma once

#if !defined(__CUDACC__)
#include "gpu/emulated_warpgroups.h"
#else

#include "gpu/intrinsics.cuh"

namespace sdcore::gpu {
namespace {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool kHasWarpgroups = true;
#else
inline constexpr bool kHasWarpgroups = false;
#endif

// Tiles in shared memory are rows of 128 bytes, whose eight parts of 16 bytes are in other places
// in each of eight rows: part i of row r is at i ^ r % 8. They begin at multiples of this.
inline constexpr size_t kSwizzleBytes = 1024;

__device__ __forceinline__ std::byte* aligned_shared_memory() {
  std::byte* memory = shared_memory();
  const uint32_t at = shared_address(memory);
  return memory + (kSwizzleBytes - at % kSwizzleBytes) % kSwizzleBytes;
}

// What wgmma reads: 8 rows after 1024 bytes come the next 8, swizzled over 128 bytes. Of an operand
// whose rows go along the sum ("K-major") further parts of 16 numbers are 32 bytes away; of one
// whose rows go across it, the next 64 of a row are `next_columns` bytes away.
__device__ __forceinline__ uint64_t tile_at(const void* first, uint32_t next_columns = 16) {
  constexpr uint64_t kNextRows = uint64_t{1024 >> 4} << 32, kSwizzle128 = uint64_t{1} << 62;
  return (shared_address(first) >> 4 & 0x3fff) | uint64_t{next_columns >> 4} << 16 | kNextRows |
         kSwizzle128;
}
// The tile that begins so many bytes after another.
__device__ __forceinline__ uint64_t tile_after(uint64_t tile, uint32_t bytes) {
  return tile + (bytes >> 4);
}

__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int groups>
__device__ __forceinline__ void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}
// As far as the compiler knows, these are computed before this, and read as it leaves them.
template <int count>
__device__ __forceinline__ void hold(float (&sums)[count]) {
  SDCORE_UNROLL
  for (int i = 0; i < count; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
template <int count>
__device__ __forceinline__ void hold(uint32_t (&pairs)[count]) {
  SDCORE_UNROLL
  for (int i = 0; i < count; ++i) asm volatile("" : "+r"(pairs[i])::"memory");
}

// A number that is the same in all lanes, so that the compiler knows it.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// 2^x; numbers below the smallest normal ones are 0.
__device__ __forceinline__ float fast_exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The first n / 2 operands of an instruction, as its text names them and as they are bound.
// clang-format off
#define SDCORE_NAMES_8 "%0, %1, %2, %3"
#define SDCORE_NAMES_16 SDCORE_NAMES_8 ", %4, %5, %6, %7"
#define SDCORE_NAMES_24 SDCORE_NAMES_16 ", %8, %9, %10, %11"
#define SDCORE_NAMES_32 SDCORE_NAMES_24 ", %12, %13, %14, %15"
#define SDCORE_NAMES_40 SDCORE_NAMES_32 ", %16, %17, %18, %19"
#define SDCORE_NAMES_48 SDCORE_NAMES_40 ", %20, %21, %22, %23"
#define SDCORE_NAMES_56 SDCORE_NAMES_48 ", %24, %25, %26, %27"
#define SDCORE_NAMES_64 SDCORE_NAMES_56 ", %28, %29, %30, %31"
#define SDCORE_NAMES_72 SDCORE_NAMES_64 ", %32, %33, %34, %35"
#define SDCORE_NAMES_80 SDCORE_NAMES_72 ", %36, %37, %38, %39"
#define SDCORE_NAMES_88 SDCORE_NAMES_80 ", %40, %41, %42, %43"
#define SDCORE_NAMES_96 SDCORE_NAMES_88 ", %44, %45, %46, %47"
#define SDCORE_NAMES_104 SDCORE_NAMES_96 ", %48, %49, %50, %51"
#define SDCORE_NAMES_112 SDCORE_NAMES_104 ", %52, %53, %54, %55"
#define SDCORE_NAMES_120 SDCORE_NAMES_112 ", %56, %57, %58, %59"
#define SDCORE_NAMES_128 SDCORE_NAMES_120 ", %60, %61, %62, %63"
#define SDCORE_NAMES_136 SDCORE_NAMES_128 ", %64, %65, %66, %67"
#define SDCORE_NAMES_144 SDCORE_NAMES_136 ", %68, %69, %70, %71"
#define SDCORE_NAMES_152 SDCORE_NAMES_144 ", %72, %73, %74, %75"
#define SDCORE_NAMES_160 SDCORE_NAMES_152 ", %76, %77, %78, %79"
#define SDCORE_NAMES_168 SDCORE_NAMES_160 ", %80, %81, %82, %83"
#define SDCORE_NAMES_176 SDCORE_NAMES_168 ", %84, %85, %86, %87"
#define SDCORE_NAMES_184 SDCORE_NAMES_176 ", %88, %89, %90, %91"
#define SDCORE_NAMES_192 SDCORE_NAMES_184 ", %92, %93, %94, %95"
#define SDCORE_NAMES_200 SDCORE_NAMES_192 ", %96, %97, %98, %99"
#define SDCORE_NAMES_208 SDCORE_NAMES_200 ", %100, %101, %102, %103"
#define SDCORE_NAMES_216 SDCORE_NAMES_208 ", %104, %105, %106, %107"
#define SDCORE_NAMES_224 SDCORE_NAMES_216 ", %108, %109, %110, %111"
#define SDCORE_NAMES_232 SDCORE_NAMES_224 ", %112, %113, %114, %115"
#define SDCORE_NAMES_240 SDCORE_NAMES_232 ", %116, %117, %118, %119"
#define SDCORE_NAMES_248 SDCORE_NAMES_240 ", %120, %121, %122, %123"
#define SDCORE_NAMES_256 SDCORE_NAMES_248 ", %124, %125, %126, %127"
#define SDCORE_FOUR(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define SDCORE_SUMS_8(c) SDCORE_FOUR(c, 0)
#define SDCORE_SUMS_16(c) SDCORE_SUMS_8(c), SDCORE_FOUR(c, 4)
#define SDCORE_SUMS_24(c) SDCORE_SUMS_16(c), SDCORE_FOUR(c, 8)
#define SDCORE_SUMS_32(c) SDCORE_SUMS_24(c), SDCORE_FOUR(c, 12)
#define SDCORE_SUMS_40(c) SDCORE_SUMS_32(c), SDCORE_FOUR(c, 16)
#define SDCORE_SUMS_48(c) SDCORE_SUMS_40(c), SDCORE_FOUR(c, 20)
#define SDCORE_SUMS_56(c) SDCORE_SUMS_48(c), SDCORE_FOUR(c, 24)
#define SDCORE_SUMS_64(c) SDCORE_SUMS_56(c), SDCORE_FOUR(c, 28)
#define SDCORE_SUMS_72(c) SDCORE_SUMS_64(c), SDCORE_FOUR(c, 32)
#define SDCORE_SUMS_80(c) SDCORE_SUMS_72(c), SDCORE_FOUR(c, 36)
#define SDCORE_SUMS_88(c) SDCORE_SUMS_80(c), SDCORE_FOUR(c, 40)
#define SDCORE_SUMS_96(c) SDCORE_SUMS_88(c), SDCORE_FOUR(c, 44)
#define SDCORE_SUMS_104(c) SDCORE_SUMS_96(c), SDCORE_FOUR(c, 48)
#define SDCORE_SUMS_112(c) SDCORE_SUMS_104(c), SDCORE_FOUR(c, 52)
#define SDCORE_SUMS_120(c) SDCORE_SUMS_112(c), SDCORE_FOUR(c, 56)
#define SDCORE_SUMS_128(c) SDCORE_SUMS_120(c), SDCORE_FOUR(c, 60)
#define SDCORE_SUMS_136(c) SDCORE_SUMS_128(c), SDCORE_FOUR(c, 64)
#define SDCORE_SUMS_144(c) SDCORE_SUMS_136(c), SDCORE_FOUR(c, 68)
#define SDCORE_SUMS_152(c) SDCORE_SUMS_144(c), SDCORE_FOUR(c, 72)
#define SDCORE_SUMS_160(c) SDCORE_SUMS_152(c), SDCORE_FOUR(c, 76)
#define SDCORE_SUMS_168(c) SDCORE_SUMS_160(c), SDCORE_FOUR(c, 80)
#define SDCORE_SUMS_176(c) SDCORE_SUMS_168(c), SDCORE_FOUR(c, 84)
#define SDCORE_SUMS_184(c) SDCORE_SUMS_176(c), SDCORE_FOUR(c, 88)
#define SDCORE_SUMS_192(c) SDCORE_SUMS_184(c), SDCORE_FOUR(c, 92)
#define SDCORE_SUMS_200(c) SDCORE_SUMS_192(c), SDCORE_FOUR(c, 96)
#define SDCORE_SUMS_208(c) SDCORE_SUMS_200(c), SDCORE_FOUR(c, 100)
#define SDCORE_SUMS_216(c) SDCORE_SUMS_208(c), SDCORE_FOUR(c, 104)
#define SDCORE_SUMS_224(c) SDCORE_SUMS_216(c), SDCORE_FOUR(c, 108)
#define SDCORE_SUMS_232(c) SDCORE_SUMS_224(c), SDCORE_FOUR(c, 112)
#define SDCORE_SUMS_240(c) SDCORE_SUMS_232(c), SDCORE_FOUR(c, 116)
#define SDCORE_SUMS_248(c) SDCORE_SUMS_240(c), SDCORE_FOUR(c, 120)
#define SDCORE_SUMS_256(c) SDCORE_SUMS_248(c), SDCORE_FOUR(c, 124)
// clang-format on

// The products of n columns for both types: with both operands in shared memory, added or not, and
// with the left one in registers and the right one transposed. After n come the numbers of the
// operands after the sums.
#define SDCORE_WGMMA_OF(E, type, n, o0, o1, o2, o3, o4)                                           \
  __device__ __forceinline__ void wgmma(E, float(&d)[n / 2], uint64_t a, uint64_t b) {            \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type                  \
                 " {" SDCORE_NAMES_##n "}, %" #o0 ", %" #o1 ", 1, 1, 1, 0, 0;"                    \
                 : SDCORE_SUMS_##n("+f")                                                          \
                 : "l"(a), "l"(b));                                                               \
  }                                                                                               \
  __device__ __forceinline__ void first_wgmma(E, float(&d)[n / 2], uint64_t a, uint64_t b) {      \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type                  \
                 " {" SDCORE_NAMES_##n "}, %" #o0 ", %" #o1 ", 0, 1, 1, 0, 0;"                    \
                 : SDCORE_SUMS_##n("=f")                                                          \
                 : "l"(a), "l"(b));                                                               \
  }                                                                                               \
  __device__ __forceinline__ void wgmma(E, float(&d)[n / 2], const uint32_t(&a)[4], uint64_t b) { \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type                  \
                 " {" SDCORE_NAMES_##n "}, {%" #o0 ", %" #o1 ", %" #o2 ", %" #o3 "}, %" #o4       \
                                       ", 1, 1, 1, 1;"                                            \
                 : SDCORE_SUMS_##n("+f")                                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                           \
  }
#define SDCORE_WGMMA(...)                  \
  SDCORE_WGMMA_OF(f16, "f16", __VA_ARGS__) \
  SDCORE_WGMMA_OF(bf16, "bf16", __VA_ARGS__)

SDCORE_WGMMA(40, 20, 21, 22, 23, 24)
SDCORE_WGMMA(48, 24, 25, 26, 27, 28)
SDCORE_WGMMA(64, 32, 33, 34, 35, 36)
SDCORE_WGMMA(80, 40, 41, 42, 43, 44)
SDCORE_WGMMA(96, 48, 49, 50, 51, 52)
SDCORE_WGMMA(128, 64, 65, 66, 67, 68)
SDCORE_WGMMA(160, 80, 81, 82, 83, 84)
SDCORE_WGMMA(256, 128, 129, 130, 131, 132)

#endif

// sums += a · bᵀ for a warpgroup: 64 rows of 16 and n rows of 16, both in shared memory. Until it
// is awaited, nothing may touch the sums.
template <class E, int n>
__device__ __forceinline__ void multiply(float (&sums)[n / 2], uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  wgmma(E{}, sums, a, b);
#endif
}
// The same into sums that hold nothing yet.
template <class E, int n>
__device__ __forceinline__ void multiply_first(float (&sums)[n / 2], uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  first_wgmma(E{}, sums, a, b);
#endif
}
// sums += a · b with a, 64 x 16, in the registers of the warpgroup as mma has a, and 16 rows of b
// in shared memory.
template <class E, int n>
__device__ __forceinline__ void multiply_rows(float (&sums)[n / 2], const uint32_t (&a)[4],
                                              uint64_t b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  wgmma(E{}, sums, a, b);
#endif
}

}  // namespace
}  // namespace sdcore::gpu

#endif
