#include "kernels/resample/gpu_kernels.cuh"

namespace sdcore::resample {

const GpuKernel gpu_cuda = kGpuKernel;

}  // namespace sdcore::resample
