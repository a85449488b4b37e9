// What the elementwise family provides for GPUs.
#pragma once

#include "gpu/device.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore::elementwise {

// The arguments have been checked; their memory is the device's.
struct GpuKernel {
  gpu::Backend backend;
  void (*unary)(const UnaryArgs& args, gpu::Device& device);
  void (*binary)(const BinaryArgs& args, gpu::Device& device);
  void (*geglu)(const GegluArgs& args, gpu::Device& device);
  void (*scale)(const ScaleArgs& args, gpu::Device& device);
  void (*timestep_embedding)(const TimestepEmbeddingArgs& args, gpu::Device& device);
};

#include "gpu/kernel_row.inc"

}  // namespace sdcore::elementwise
