// Group, layer and root-mean-square normalization, with what follows them in the same pass.
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
  // Means, then variances, [n, 1, 1, 2 * groups] in f32, in place of those of `in`, where given (c
  // is not 0): of an image of which `in` is a part.
  View moments = {};
  void* workspace = nullptr;
};
size_t group_norm_workspace(const GroupNormArgs& args, const KernelContext& context);
void group_norm(const GroupNormArgs& args, const KernelContext& context);

// Of each group over the pixels of an image: means, then variances, [n, 1, 1, 2 * groups] in f32.
struct GroupMomentsArgs {
  View in, out;
  int groups = 32;
  void* workspace = nullptr;
};
size_t group_moments_workspace(const GroupMomentsArgs& args, const KernelContext& context);
void group_moments(const GroupMomentsArgs& args, const KernelContext& context);

// Over the channels of each pixel. weight and bias may be null. Where `scale` or `shift` is given
// (c is not 0; [n, 1, 1, c]) the result is then multiplied by 1 + scale and moved by shift:
// the modulation of adaptive layer norms (Peebles and Xie 2022, adaLN).
struct LayerNormArgs {
  View in, out;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float eps = 1e-5f;
  View scale = {}, shift = {};
  void* workspace = nullptr;
};
size_t layer_norm_workspace(const LayerNormArgs& args, const KernelContext& context);
void layer_norm(const LayerNormArgs& args, const KernelContext& context);

// x / sqrt(mean(x^2) + eps) * weight over each run of `size` channels, weight [size]
// (Zhang and Sennrich 2019).
struct RmsNormArgs {
  View in, out;
  const float* weight = nullptr;
  int64_t size = 0;
  float eps = 1e-6f;
};
void rms_norm(const RmsNormArgs& args, const KernelContext& context);

std::vector<std::string> norm_variants();  // best first

}  // namespace sdcore
