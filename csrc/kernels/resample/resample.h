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

}  // namespace sdcore
