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

}  // namespace sdcore::norm
