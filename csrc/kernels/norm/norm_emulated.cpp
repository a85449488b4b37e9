#include "kernels/norm/gpu_kernels.cuh"

namespace sdcore::norm {

const GpuKernel gpu_emulated = kGpuKernel;

}  // namespace sdcore::norm
