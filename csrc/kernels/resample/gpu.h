// What the resample family provides for GPUs.
#pragma once

#include "gpu/device.h"
#include "kernels/resample/resample.h"

namespace sdcore::resample {

// The arguments have been checked; their memory is the device's.
struct GpuKernel {
  gpu::Backend backend;
  void (*upsample_nearest)(const UpsampleArgs& args, gpu::Device& device);
};

#define SDCORE_GPU(backend) extern const GpuKernel gpu_##backend;
#include "gpu/backends.inc"
#undef SDCORE_GPU

inline const GpuKernel& gpu_kernel(const gpu::Device& device) {
  return gpu::row_for<GpuKernel>(
      {
#define SDCORE_GPU(backend) &gpu_##backend,
#include "gpu/backends.inc"
#undef SDCORE_GPU
      },
      device);
}

}  // namespace sdcore::resample
