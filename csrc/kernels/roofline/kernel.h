// What one level provides.
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace sdcore::roofline {

struct Kernel {
  const char* name;
  Isa isa;
  double operations;  // of a round
  void (*run)(int64_t rounds);
};

#define SDCORE_KERNEL(kernel) extern const Kernel kernel;
#include "kernels/roofline/kernels.inc"
#undef SDCORE_KERNEL

}  // namespace sdcore::roofline
