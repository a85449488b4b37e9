// What the embedding family provides for GPUs.
#pragma once

#include "gpu/device.h"
#include "kernels/embedding/embedding.h"

namespace sdcore::embedding_kernels {

// The arguments have been checked; their memory is the device's.
struct GpuKernel {
  gpu::Backend backend;
  void (*embedding)(const EmbeddingArgs& args, gpu::Device& device);
  void (*take)(const TakeArgs& args, gpu::Device& device);
};

#include "gpu/kernel_row.inc"

}  // namespace sdcore::embedding_kernels
