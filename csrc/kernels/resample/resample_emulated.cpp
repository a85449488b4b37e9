#include "kernels/resample/gpu_kernels.cuh"

namespace sdcore::resample {

const GpuKernel gpu_emulated = kGpuKernel;

}  // namespace sdcore::resample
