// Weights on a GPU: dense ones as [outputs][taps][inputs] in the type of the activations, inputs
// filled up to whole steps with zeros; quantized ones that the kernels unpack as they are.
#include <algorithm>
#include <cstring>

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

// Blocks that the kernels unpack go up as they lie in the file.
bool keeps_blocks(const Tensor& weight, const PackedWeight& w) {
  return w.dtype == DType::bf16 && w.kernel == 1 &&
         w.inputs % type_info(weight.type).block_size == 0 && stays_quantized(weight.type);
}

Type stored_type(const Tensor& weight, const PackedWeight& w) {
  if (keeps_blocks(weight, w)) return weight.type;
  return w.dtype == DType::bf16 ? Type::bf16 : Type::f32;
}

bool lies_as_wanted(const Tensor& weight, const PackedWeight& w) {
  return keeps_blocks(weight, w) ||
         (weight.type == stored_type(weight, w) && w.kernel == 1 && w.inputs == padded_inputs(w));
}

int64_t dense_row_bytes(const PackedWeight& w) {
  return padded_inputs(w) * w.kernel * dtype_size(w.dtype);
}

// Calls take(offset, data, bytes) for pieces of a weight that does not lie as it is wanted, some
// rows at a time: a program that puts a model onto a GPU may have less memory than that.
template <class Take>
void for_pieces(const Tensor& weight, const PackedWeight& w, ThreadPool& pool, Take take) {
  const int64_t row_bytes = dense_row_bytes(w);
  const int64_t piece = std::max<int64_t>(1, (int64_t{4} << 20) / row_bytes);
  const int64_t pieces = (w.outputs + piece - 1) / piece;
  const int64_t together = pool.size();
  std::vector<std::vector<float>> values(static_cast<size_t>(together));
  Buffer staged(static_cast<size_t>(together * piece * row_bytes));
  for (int64_t first = 0; first < pieces; first += together) {
    const int64_t count = std::min(together, pieces - first);
    pool.parallel_for(count, [&](int64_t i, int thread) {
      const int64_t begin = (first + i) * piece;
      prepare(weight, w, begin, std::min(w.outputs, begin + piece),
              values[static_cast<size_t>(thread)], staged.data() + i * piece * row_bytes);
    });
    const int64_t begin = first * piece, end = std::min(w.outputs, (first + count) * piece);
    take(begin * row_bytes, staged.data(), static_cast<size_t>((end - begin) * row_bytes));
  }
}

void put_on_device(const Tensor& weight, PackedWeight& w, size_t bytes,
                   const KernelContext& context) {
  gpu::Device& device = *context.device;
  w.on_device = device.allocate(bytes, "a weight");
  auto* to = static_cast<std::byte*>(w.on_device->data());
  if (lies_as_wanted(weight, w)) return device.upload(to, weight.data, bytes);
  for_pieces(weight, w, context.pool, [&](int64_t offset, const std::byte* data, size_t size) {
    device.upload(to + offset, data, size);
  });
}

void keep_for_streaming(const Tensor& weight, PackedWeight& w, size_t bytes,
                        const KernelContext& context) {
  w.streamed = std::make_unique<gpu::Streamed>();
  w.streamed->bytes = bytes;
  if (lies_as_wanted(weight, w)) {
    w.source = weight;
    w.streamed->data = weight.data;
    return;
  }
  const std::shared_ptr<std::byte> memory = context.device->staging(bytes);
  for_pieces(weight, w, context.pool, [&](int64_t offset, const std::byte* data, size_t size) {
    std::memcpy(memory.get() + offset, data, size);
  });
  w.streamed->data = memory.get();
  w.streamed->owner = memory;
}

}  // namespace

size_t bytes_on_device(const Tensor& weight, const PackedWeight& w) {
  if (keeps_blocks(weight, w)) return static_cast<size_t>(weight.bytes());
  return static_cast<size_t>(dense_row_bytes(w) * w.outputs);
}

void upload(const Tensor& weight, PackedWeight& w, const KernelContext& context) {
  const TypeInfo& type = type_info(weight.type);
  require(type.to_float != nullptr, ErrorKind::invalid_argument,
          "[gemm] a weight cannot be of type ", type.name);
  w.stored = stored_type(weight, w);
  const size_t bytes = bytes_on_device(weight, w);
  if (context.budget && !context.budget->take(bytes)) {
    keep_for_streaming(weight, w, bytes, context);
  } else {
    put_on_device(weight, w, bytes, context);
  }
}

void multiply_on_device(const View& in, const View& out, const PackedWeight& weight,
                        const Window& window, const Padding& padding, const Epilogue& epilogue,
                        const KernelContext& context) {
  GpuProduct product;
  product.in = in;
  product.out = out;
  product.weight = weight.streamed ? weight.streamed->place : weight.on_device->data();
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
