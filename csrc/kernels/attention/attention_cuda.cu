#include "kernels/attention/gpu_kernels.cuh"

namespace sdcore::attention_kernels {

const GpuKernel gpu_cuda = kGpuKernel;

}  // namespace sdcore::attention_kernels
