// 2-D convolution on channels-last images, as an implicit matrix product: no im2col buffer.
#pragma once

#include "kernels/gemm/gemm.h"

namespace sdcore {

struct Conv2dArgs {
  View in;
  View out;
  PackedWeightPtr weight;  // of [out channels, in channels, kernel_h, kernel_w]
  int kernel_h = 1, kernel_w = 1;
  int stride = 1;
  int pad_top = 0,
      pad_left = 0;  // zeros before the image; those after it follow from the output's size
  Epilogue epilogue;
  void* workspace = nullptr;  // conv2d_workspace(…) bytes, aligned to 64; contents may be anything
};

// Bytes of workspace for these views (only shapes, dtype, strides and halo are looked at).
size_t conv2d_workspace(const Conv2dArgs& args, const KernelContext& context);
// Whether an input with a halo spares a copy.
bool conv2d_wants_halo(const Conv2dArgs& args, const KernelContext& context);
void conv2d(const Conv2dArgs& args, const KernelContext& context);

}  // namespace sdcore
