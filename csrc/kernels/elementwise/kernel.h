// What one variant of the elementwise family provides: loops over pixels at fixed strides.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "base/view.h"
#include "kernels/context.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore::elementwise {

// `pixels` runs of `c` adjacent elements; strides in elements from one run to the next.
template <class Data>
struct Run {
  Data* data;
  DType dtype;
  int64_t stride;
};
struct Span {
  Run<const void> a, b;  // b of binary only
  Run<void> out;
  int64_t pixels, c;
};

struct Kernel {
  Isa isa;
  void (*unary)(const Span& span, Activation activation);
  void (*binary)(const Span& span, BinaryOp op);
  void (*geglu)(const Span& span);  // the gate is at a + c
  void (*scale)(const Span& span, float factor);
};

#define SDCORE_KERNEL(isa) extern const Kernel kernel_##isa;
#include "kernels/elementwise/kernels.inc"
#undef SDCORE_KERNEL

}  // namespace sdcore::elementwise
