// What every kernel is given beside its arguments.
#pragma once

#include "base/cpu.h"
#include "base/thread_pool.h"

namespace sdcore {

namespace gpu {
class Device;
class WeightBudget;
}  // namespace gpu

struct KernelContext {
  ThreadPool& pool;
  Isa isa;                        // the highest level that may be used
  gpu::Device* device = nullptr;  // runs the kernels on its own memory; null: this processor does
  gpu::WeightBudget* budget = nullptr;  // says which weights stay on the device; null: all do
};

// Applied to a single value; `none` leaves it.
enum class Activation : uint8_t {
  none,
  silu,        // x * sigmoid(x)
  gelu,        // x * Phi(x), by erf
  gelu_tanh,   // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  quick_gelu,  // x * sigmoid(1.702 x)
  relu,
};

}  // namespace sdcore
