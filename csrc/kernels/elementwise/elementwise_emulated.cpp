#include "kernels/elementwise/gpu_kernels.cuh"

namespace sdcore::elementwise {

const GpuKernel gpu_emulated = kGpuKernel;

}  // namespace sdcore::elementwise
