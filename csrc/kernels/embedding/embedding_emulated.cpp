#include "kernels/embedding/gpu_kernels.cuh"

namespace sdcore::embedding_kernels {

const GpuKernel gpu_emulated = kGpuKernel;

}  // namespace sdcore::embedding_kernels
