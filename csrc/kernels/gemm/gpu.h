// Matrix products on GPUs: linear layers, and convolutions as implicit products, on one kernel.
#pragma once

#include "gpu/device.h"
#include "kernels/gemm/gemm.h"

namespace sdcore::gemm {

struct GpuProduct {
  View in, out;
  // [outputs][taps][padded_inputs] as `in` is; or a quantized type's blocks
  // [outputs][row_bytes].
  const void* weight = nullptr;
  Type stored = Type::f32;
  int64_t padded_inputs = 0, row_bytes = 0;
  int64_t columns = 0;  // outputs of the weight
  int kernel_h = 1, kernel_w = 1, stride = 1, pad_top = 0, pad_left = 0;
  // Parts of every sum that blocks of their own compute, and room for them where there is more than
  // one: [parts][pixels][columns].
  int parts = 1;
  float* partial = nullptr;
  void* unpacked = nullptr;  // room for the weight as `in` is; or null
  // Its views' data may be null.
  Epilogue epilogue;
};

// Of a gated weight kGateRun rows of values and as many of their gates take turns, so that one
// block has both.
inline constexpr int64_t kGateRun = 8;

// Channels of each tap are filled up with zeros to whole steps of the kernels.
inline constexpr int64_t kGpuStep = 32;

struct GpuKernel {
  gpu::Backend backend;
  void (*multiply)(const GpuProduct& product, gpu::Device& device);
};

// Whether kernels read blocks of this type; other quantized types become the type of
// the activations on the way up.
constexpr bool stays_quantized(Type type) {
  return type == Type::q8_0 || type == Type::q4_0 || type == Type::q4_K || type == Type::q5_K ||
         type == Type::q6_K;
}

#include "gpu/kernel_row.inc"

}  // namespace sdcore::gemm
