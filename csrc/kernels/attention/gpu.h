// What the attention family provides for GPUs.
#pragma once

#include "gpu/device.h"
#include "kernels/attention/attention.h"

namespace sdcore::attention_kernels {

// The arguments have been checked; their memory is the device's.
struct GpuKernel {
  gpu::Backend backend;
  void (*attention)(const AttentionArgs& args, gpu::Device& device);
};

#include "gpu/kernel_row.inc"

}  // namespace sdcore::attention_kernels
