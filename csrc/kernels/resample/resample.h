// Changes of image size.
#pragma once

#include "base/view.h"
#include "kernels/context.h"

namespace sdcore {

// Nearest neighbour to out's size: out(y, x) = in(y * in.h / out.h, x * in.w / out.w), rounded
// down, as PyTorch's interpolate(mode="nearest"). The halo of out is not touched.
struct UpsampleArgs {
  View in, out;
};
void upsample_nearest(const UpsampleArgs& args, const KernelContext& context);

// in [n, h, w, s * s * c] -> out [n, h * s, w * s, c]: pixel (y * s + i, x * s + j) of out is part
// i * s + j of pixel (y, x). The two may be of either dtype.
struct DepthToSpaceArgs {
  View in, out;
};
void depth_to_space(const DepthToSpaceArgs& args, const KernelContext& context);

enum class Pooling : uint8_t { max, mean };

// out(y, x) is the largest or the mean of in's pixels from (y * stride - pad_top, x * stride -
// pad_left) on, kernel_h by kernel_w of them; those outside of in do not count, and each window has
// some inside. The two are of one dtype.
struct PoolArgs {
  View in, out;
  Pooling kind = Pooling::max;
  int64_t kernel_h = 1, kernel_w = 1, stride = 1, pad_top = 0, pad_left = 0;
};
void pool2d(const PoolArgs& args, const KernelContext& context);

}  // namespace sdcore
