#include "kernels/gemm/gpu_kernels.cuh"

namespace sdcore::gemm {

const GpuKernel gpu_emulated = kGpuKernel;

}  // namespace sdcore::gemm
