// What the resample family provides for GPUs.
#pragma once

#include "gpu/device.h"
#include "kernels/resample/resample.h"

namespace sdcore::resample {

// The arguments have been checked; their memory is the device's.
struct GpuKernel {
  gpu::Backend backend;
  void (*upsample_nearest)(const UpsampleArgs& args, gpu::Device& device);
  void (*pool2d)(const PoolArgs& args, gpu::Device& device);
};

#include "gpu/kernel_row.inc"

}  // namespace sdcore::resample
