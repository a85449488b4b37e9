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

// A weight of [out channels, in channels, kernel_h, kernel_w] for conv2d.
PackedWeightPtr pack_conv2d_weight(const Tensor& weight, DType dtype, const KernelContext& context);

// Whether most convolutions of 3x3 with images in bf16 multiply 16-bit integers at this level:
// about twice as fast as in f32.
bool convolves_integers(Isa isa);

// Bytes of workspace for these views (only shapes, dtype, strides and halo are looked at).
size_t conv2d_workspace(const Conv2dArgs& args, const KernelContext& context);
// Whether an input with a halo spares a copy.
bool conv2d_wants_halo(const Conv2dArgs& args, const KernelContext& context);
void conv2d(const Conv2dArgs& args, const KernelContext& context);

}  // namespace sdcore
