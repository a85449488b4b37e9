// How much of a device's memory a network wants, before anything is allocated.
#pragma once

#include "gpu/device.h"
#include "graph/plan.h"

namespace sdcore {

// Bytes of weights that are not prepared yet.
struct WeightNeeds {
  size_t matrices = 0;  // of linear layers and convolutions: those that can be streamed
  size_t largest = 0;   // of them
  size_t others = 0;
};
WeightNeeds weight_needs(const Plan& plan, const WeightStore& weights, DType dtype,
                         const KernelContext& kernels);

// The arena of a run, with its inputs and outputs.
size_t run_bytes(const Plan& plan);

// What is free but for a margin: the driver takes memory too, and what is given out is rounded up.
size_t room_on(const gpu::Device& device);

}  // namespace sdcore
