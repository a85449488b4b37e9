// Copies of boxes of a tensor by the copy engine of compute capability 9.0, barriers in shared
// memory that count what has arrived, and clusters of blocks that reach each other's shared memory;
// after NVIDIA's PTX ISA. emulated_copies.h has the same functions for a C++ compiler.
#pragma once

#if !defined(__CUDACC__)
#include "gpu/emulated_copies.h"
#else

#include <cuda.h>

#include "base/view.h"
#include "gpu/intrinsics.cuh"

namespace sdcore::gpu {
namespace {

using TensorMap = CUtensorMap;

// A tensor of 16-bit numbers of up to four dimensions, the first dense, of which boxes are copied
// whose rows of 128 bytes are swizzled as wgmma wants them. Outside of it there are zeros.
struct TensorBox {
  const void* data;
  uint64_t size[4];
  uint64_t stride[3];  // bytes, of all but the first
  uint32_t box[4];     // of the copy
  uint32_t step[4];    // from one number of the copy to the next
};

// Of the driver, which is not linked.
inline decltype(&cuTensorMapEncodeTiled) find_encode() {
  constexpr const char* kName = "cuTensorMapEncodeTiled";
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(kName, &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(kName, &found, cudaEnableDefault, &result);
#endif
  require(status == cudaSuccess && found, ErrorKind::internal,
          "[cuda] the driver has no tensor maps; install a newer one");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

inline TensorMap tensor_map(const TensorBox& b, DType dtype) {
  static const auto encode = find_encode();
  uint32_t box[4];
  for (int i = 0; i < 4; ++i) box[i] = (b.box[i] - 1) * b.step[i] + 1;
  TensorMap map;
  const CUresult status = encode(
      &map,
      dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
      const_cast<void*>(b.data), b.size, b.stride, box, b.step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS, ErrorKind::internal, "[cuda] a tensor map: error ",
          static_cast<int>(status));
  return map;
}

// As launch, in clusters of blocks.
template <class... Parameters, class... Args>
void launch_clusters(Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                     size_t shared, dim3 cluster, const Args&... args) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster.x;
  attribute.val.clusterDim.y = cluster.y;
  attribute.val.clusterDim.z = cluster.z;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(device.stream());
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shared));
  if (status == cudaSuccess) status = cudaLaunchKernelEx(&config, kernel, args...);
  require(status == cudaSuccess, ErrorKind::internal,
          "[cuda] launching a kernel: ", cudaGetErrorString(status));
}

__device__ __forceinline__ void wait_for_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n\t"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// The same, but what was written before need not be seen after it.
__device__ __forceinline__ void meet_cluster() {
  asm volatile(
      "barrier.cluster.arrive.relaxed.aligned;\n\t"
      "barrier.cluster.wait.aligned;" ::
          : "memory");
}
__device__ __forceinline__ uint32_t address_in(const void* shared, uint32_t rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(there)
      : "r"(shared_address(shared)), "r"(rank));
  return there;
}
struct alignas(16) Quad {
  float v[4];
};
// What lies at this place of another block's shared memory; blocks of a cluster are counted x
// first, then y, then z.
__device__ __forceinline__ Quad load_from(const void* shared, uint32_t rank) {
  Quad q;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(q.v[0]), "=f"(q.v[1]), "=f"(q.v[2]), "=f"(q.v[3])
               : "r"(address_in(shared, rank))
               : "memory");
  return q;
}

using Barrier = uint64_t;
__device__ __forceinline__ void init_barrier(Barrier* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive_expecting(Barrier* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void await_barrier(Barrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n\t"
      ".reg .pred done;\n\t"
      "again:\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
      "@!done bra again;\n\t"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void copy_box(void* to, const TensorMap* map, int c0, int c1, int c2,
                                         int c3, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ __forceinline__ void prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

}  // namespace
}  // namespace sdcore::gpu

#endif
