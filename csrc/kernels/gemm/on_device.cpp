// Weights on a GPU: dense ones as [outputs][taps][inputs] in the type of the activations, inputs
// filled up to whole steps with zeros; quantized ones that the kernels unpack as they are.
#include <algorithm>

#include "kernels/gemm/gpu.h"
#include "kernels/gemm/packed_weight.h"

namespace sdcore::gemm {
namespace {

int64_t padded_inputs(const PackedWeight& w) {
  return (w.inputs + kGpuStep - 1) / kGpuStep * kGpuStep;
}

// Rows of [inputs][taps] as [taps][padded inputs].
template <class To, class Convert>
void turn(const float* row, const PackedWeight& w, Convert convert, To* to) {
  const int64_t padded = padded_inputs(w);
  std::fill(to, to + padded * w.kernel, To{});
  for (int64_t tap = 0; tap < w.kernel; ++tap) {
    for (int64_t i = 0; i < w.inputs; ++i) to[tap * padded + i] = convert(row[i * w.kernel + tap]);
  }
}

// The rows [begin, end), whose blocks may cross from one row into the next, ready for the device.
void prepare(const Tensor& weight, const PackedWeight& w, int64_t begin, int64_t end,
             std::vector<float>& values, std::byte* to) {
  const int64_t row = w.inputs * w.kernel, block = type_info(weight.type).block_size;
  const int64_t first = begin * row / block * block;
  const int64_t last = std::min((end * row + block - 1) / block * block, w.outputs * row);
  values.resize(static_cast<size_t>(last - first));
  to_float(weight, first, last - first, values.data());
  for (int64_t o = begin; o < end; ++o) {
    const float* from = values.data() + (o * row - first);
    const int64_t at = (o - begin) * padded_inputs(w) * w.kernel;
    if (w.stored == Type::bf16) {
      turn(from, w, [](float x) { return to_bf16(x); }, reinterpret_cast<bf16*>(to) + at);
    } else {
      turn(from, w, [](float x) { return x; }, reinterpret_cast<float*>(to) + at);
    }
  }
}

}  // namespace

void upload(const Tensor& weight, PackedWeight& w, const KernelContext& context) {
  gpu::Device& device = *context.device;
  const TypeInfo& type = type_info(weight.type);
  require(type.to_float != nullptr, ErrorKind::invalid_argument,
          "[gemm] a weight cannot be of type ", type.name);
  if (w.dtype == DType::bf16 && w.kernel == 1 && w.inputs % type.block_size == 0 &&
      stays_quantized(weight.type)) {
    w.stored = weight.type;
    const auto bytes = static_cast<size_t>(weight.bytes());
    w.on_device = device.allocate(bytes, "a weight");
    device.upload(w.on_device->data(), weight.data, bytes);
    return;
  }
  w.stored = w.dtype == DType::bf16 ? Type::bf16 : Type::f32;
  const int64_t row_bytes = padded_inputs(w) * w.kernel * dtype_size(w.dtype);
  w.on_device = device.allocate(static_cast<size_t>(row_bytes * w.outputs), "a weight");
  // Some rows at a time: a program that puts a model onto a GPU may have less memory than that.
  const int64_t piece = std::max<int64_t>(1, (int64_t{4} << 20) / row_bytes);
  const int64_t pieces = (w.outputs + piece - 1) / piece;
  const int64_t together = context.pool.size();
  std::vector<std::vector<float>> values(static_cast<size_t>(together));
  Buffer staged(static_cast<size_t>(together * piece * row_bytes));
  for (int64_t first = 0; first < pieces; first += together) {
    const int64_t count = std::min(together, pieces - first);
    context.pool.parallel_for(count, [&](int64_t i, int thread) {
      const int64_t begin = (first + i) * piece;
      prepare(weight, w, begin, std::min(w.outputs, begin + piece),
              values[static_cast<size_t>(thread)], staged.data() + i * piece * row_bytes);
    });
    const int64_t begin = first * piece, end = std::min(w.outputs, (first + count) * piece);
    device.upload(static_cast<std::byte*>(w.on_device->data()) + begin * row_bytes, staged.data(),
                  static_cast<size_t>((end - begin) * row_bytes));
  }
}

void multiply_on_device(const View& in, const View& out, const PackedWeight& weight,
                        const Window& window, const Padding& padding, const Epilogue& epilogue,
                        const KernelContext& context) {
  GpuProduct product;
  product.in = in;
  product.out = out;
  product.weight = weight.on_device->data();
  product.stored = weight.stored;
  product.padded_inputs = padded_inputs(weight);
  const TypeInfo& type = type_info(weight.stored);
  product.row_bytes = weight.inputs / type.block_size * type.block_bytes;
  product.kernel_h = window.kernel_h;
  product.kernel_w = window.kernel_w;
  product.stride = window.stride;
  product.pad_top = padding.top;
  product.pad_left = padding.left;
  product.epilogue = epilogue;
  gpu_kernel(*context.device).multiply(product, *context.device);
}

}  // namespace sdcore::gemm
