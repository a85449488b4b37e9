// Arithmetic that touches each value once. Views may be of either dtype, mixed.
#pragma once

#include <string>
#include <vector>

#include "base/view.h"
#include "kernels/context.h"

namespace sdcore {

struct UnaryArgs {
  View in, out;
  Activation activation = Activation::none;  // none copies, converting dtype and strides
};
void unary(const UnaryArgs& args, const KernelContext& context);

enum class BinaryOp : uint8_t {
  add,
  mul,
  prelu,  // a where it is above 0, else a * b (He et al. 2015)
};
struct BinaryArgs {
  View a;
  View b;  // as a, or with n, h or w of 1, repeated over a's
  View out;
  BinaryOp op = BinaryOp::add;
};
void binary(const BinaryArgs& args, const KernelContext& context);

// out = a[0..c) * gelu(a[c..2c)), gelu by erf; in has 2c channels (diffusers' GEGLU).
struct GegluArgs {
  View in, out;
};
void geglu(const GegluArgs& args, const KernelContext& context);

// out = in * factor
struct ScaleArgs {
  View in, out;
  float factor = 1.0f;
};
void scale(const ScaleArgs& args, const KernelContext& context);

// Sinusoids of a time step (diffusers' get_timestep_embedding): in [n,1,k,1] f32 -> out
// [n,1,k,dim].
struct TimestepEmbeddingArgs {
  View in, out;
  bool flip_sin_to_cos = true;  // cosines first
  float downscale_freq_shift = 0.0f;
  float max_period = 10000.0f;
};
void timestep_embedding(const TimestepEmbeddingArgs& args, const KernelContext& context);

// Names of the variants of unary, binary, geglu and scale, best first.
std::vector<std::string> elementwise_variants();

}  // namespace sdcore
