// A weight as the tile kernels of one variant read it.
#pragma once

#include <vector>

#include "base/buffer.h"
#include "kernels/gemm/engine.h"

namespace sdcore {

struct PackedWeight {
  const gemm::Variant* variant = nullptr;
  int64_t outputs = 0, inputs = 0, kernel = 1;  // kernel: taps of the convolution
  // What steps are cut from: `inputs` of each tap, or all taps' inputs at once where rows are
  // gathered because the kernel wants whole steps.
  int64_t channels = 0, taps = 1;
  Type stored = Type::f32;  // of the panels; of `source` where there are none
  bool gathered = false;
  Tensor source;
  Buffer panels;

  int64_t steps() const { return (channels + gemm::kStep - 1) / gemm::kStep * taps; }
  int64_t panel_count() const { return (outputs + variant->panel - 1) / variant->panel; }
  int64_t panel_bytes() const {
    return steps() * gemm::kStep * variant->panel * (stored == Type::f32 ? 4 : 2);
  }
};

namespace gemm {

// Every kernel, best first.
const std::vector<const Variant*>& variants();

// How a product's input is read: every pixel that a tap touches exists in memory.
struct Window {
  int kernel_h = 1, kernel_w = 1, stride = 1;
};

// `in` begins at the first tap of output pixel (0, 0) of image 0; its h and w are not looked at.
// The sizes of everything have been checked.
void multiply(const View& in, const View& out, const PackedWeight& weight, const Window& window,
              const Epilogue& epilogue, const KernelContext& context);

// Throws unless in, out and epilogue fit the weight and each other.
void check(const char* place, const View& in, const View& out, const PackedWeightPtr& weight,
           const Epilogue& epilogue, const KernelContext& context);

}  // namespace gemm
}  // namespace sdcore
