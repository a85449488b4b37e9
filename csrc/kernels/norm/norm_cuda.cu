#include "kernels/norm/gpu_kernels.cuh"

namespace sdcore::norm {

const GpuKernel gpu_cuda = kGpuKernel;

}  // namespace sdcore::norm
