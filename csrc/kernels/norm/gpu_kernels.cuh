#pragma once

#include "kernels/norm/gpu_group_norm.cuh"
#include "kernels/norm/gpu_layer_norm.cuh"

namespace sdcore::norm {
namespace {

constexpr GpuKernel kGpuKernel = {gpu::kBackend, workspace,  group_moments,
                                  group_norm,    layer_norm, rms_norm};

}  // namespace
}  // namespace sdcore::norm
