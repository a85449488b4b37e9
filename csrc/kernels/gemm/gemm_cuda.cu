#include "kernels/gemm/gpu_kernels.cuh"

namespace sdcore::gemm {

const GpuKernel gpu_cuda = kGpuKernel;

}  // namespace sdcore::gemm
