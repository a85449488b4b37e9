// What the norm family provides for GPUs.
#pragma once

#include "gpu/device.h"
#include "kernels/norm/norm.h"

namespace sdcore::norm {

// The arguments have been checked; their memory is the device's.
struct GpuKernel {
  gpu::Backend backend;
  size_t (*workspace)(const View& in, int groups);  // of both that follow
  void (*group_moments)(const GroupMomentsArgs& args, gpu::Device& device);
  void (*group_norm)(const GroupNormArgs& args, gpu::Device& device);
  void (*layer_norm)(const LayerNormArgs& args, gpu::Device& device);
  void (*rms_norm)(const RmsNormArgs& args, gpu::Device& device);
};

#include "gpu/kernel_row.inc"

}  // namespace sdcore::norm
