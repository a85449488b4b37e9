#include "kernels/elementwise/gpu_kernels.cuh"

namespace sdcore::elementwise {

const GpuKernel gpu_cuda = kGpuKernel;

}  // namespace sdcore::elementwise
