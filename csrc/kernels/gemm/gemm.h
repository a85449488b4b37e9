// Matrix product with a weight: out = epilogue(in · weightᵀ). The heart of linear layers; conv2d
// runs on the same packed weights and tile kernels.
#pragma once

#include <memory>

#include "base/view.h"
#include "kernels/context.h"
#include "quant/types.h"

namespace sdcore {

// What is done to a sum before it is stored, in this order: out = activation(sum + bias +
// image_bias) + residual. Of gated products the first half of the sums with their bias times gelu
// of the second half with theirs takes the place of sum + bias.
struct Epilogue {
  const float* bias = nullptr;  // [out channels]
  View image_bias;  // [n, 1, 1, out channels], added to every pixel of its image; data may be null
  Activation activation = Activation::none;
  View residual;  // the shape of the output; data may be null
  bool gated = false;
};

// A weight in the form that the inner loop of one Isa and activation dtype wants. Types f32, f16
// and bf16 are copied into panels; quantized types stay in their blocks (`source` keeps them
// alive), or these are woven together, and are unpacked a panel at a time.
struct PackedWeight;
struct PackedWeightDeleter {
  void operator()(PackedWeight*) const;
};
using PackedWeightPtr = std::shared_ptr<const PackedWeight>;

// `weight` is [out, in] or [out, in, kh, kw]; trailing sizes of 1 may be missing or extra. `dtype`
// is that of the activations: f32 computes in float32, bf16 and, on devices, f16 multiply numbers
// of that type and sum in float32. Weights whose blocks are integers may be multiplied as they are
// instead, where hardware is fast at it: by bf16 activations as 16-bit integers, which loses less
// than rounding the weights to bf16, or where `int8_activations` allows it as 8-bit ones
// (integer_bits).
PackedWeightPtr pack_weight(const Tensor& weight, DType dtype, const KernelContext& context,
                            bool int8_activations = false);
// For gated products.
PackedWeightPtr pack_gated_weight(const Tensor& weight, DType dtype, const KernelContext& context);
// Gives back what of a weight is made again, as fast as it is read, at its next product.
void release_woven(const PackedWeight& weight);
// How many outputs, or which multiple of them, a gated product can have; 0: it cannot be gated.
int64_t gated_multiple(DType dtype, Isa isa, bool on_device);

// Bytes that such a weight takes on a device.
size_t device_bytes(const Tensor& weight, DType dtype);

struct LinearArgs {
  View in;   // c = in features
  View out;  // same n, h, w; c = out features; of any dtype
  PackedWeightPtr weight;
  Epilogue epilogue;
  void* workspace = nullptr;  // linear_workspace bytes
};
size_t linear_workspace(const View& in, const View& out, int64_t outputs,
                        const KernelContext& context);
void linear(const LinearArgs& args, const KernelContext& context);

}  // namespace sdcore
