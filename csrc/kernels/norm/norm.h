// Group and layer normalization, with an activation in the same pass.
#pragma once

#include <string>
#include <vector>

#include "base/view.h"
#include "kernels/context.h"

namespace sdcore {

struct GroupNormArgs {
  View in;
  View out;                       // may have a halo, which is not touched
  const float* weight = nullptr;  // [c]
  const float* bias = nullptr;    // [c]
  int groups = 32;
  float eps = 1e-5f;
  Activation activation = Activation::none;
  void* workspace = nullptr;
};
size_t group_norm_workspace(const GroupNormArgs& args);
void group_norm(const GroupNormArgs& args, const KernelContext& context);

// Over the channels of each pixel. weight and bias may be null.
struct LayerNormArgs {
  View in, out;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float eps = 1e-5f;
};
void layer_norm(const LayerNormArgs& args, const KernelContext& context);

std::vector<std::string> norm_variants();  // best first

}  // namespace sdcore
