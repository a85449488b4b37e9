#include "kernels/embedding/gpu_kernels.cuh"

namespace sdcore::embedding_kernels {

const GpuKernel gpu_cuda = kGpuKernel;

}  // namespace sdcore::embedding_kernels
