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
  // The input counts at twice its size, every pixel four times; 3x3, stride 1 and padding 1 alone.
  // The weight is one of pack_upsampled_weight.
  bool upsampled = false;
};

// A weight of [out channels, in channels, kernel_h, kernel_w] for conv2d.
PackedWeightPtr pack_conv2d_weight(const Tensor& weight, DType dtype, const KernelContext& context);

// The same for an upsampled input. Of the 3 x 3 pixels that an output reads only 2 x 2 differ, so
// that each of 2 x 2 neighbouring outputs has a weight of 2 x 2 sums: 16 products in place of 36.
PackedWeightPtr pack_upsampled_weight(const Tensor& weight, DType dtype,
                                      const KernelContext& context);
// Whether that is the fastest: not where Winograd's method takes 9.
bool folds_upsample(DType dtype, Isa isa);

// Whether most convolutions of 3x3 with images in bf16 multiply 16-bit integers at this level:
// about twice as fast as in f32.
bool convolves_integers(Isa isa);

// Bytes of workspace for these views (only shapes, dtype, strides and halo are looked at).
size_t conv2d_workspace(const Conv2dArgs& args, const KernelContext& context);
// Whether an input with a halo spares a copy.
bool conv2d_wants_halo(const Conv2dArgs& args, const KernelContext& context);
void conv2d(const Conv2dArgs& args, const KernelContext& context);

}  // namespace sdcore
