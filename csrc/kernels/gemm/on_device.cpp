// Weights on a GPU: dense ones as [outputs][taps][inputs] in the type of the activations, inputs
// filled up to whole steps with zeros; quantized ones that the kernels unpack as they are.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemm/gpu.h"
#include "kernels/gemm/packed_weight.h"

namespace sdcore::gemm {
namespace {

int64_t padded_inputs(const PackedWeight& w) {
  return (w.inputs + kGpuStep - 1) / kGpuStep * kGpuStep;
}

// What a thread needs to prepare rows, and whether it met one with a number too large for f16.
struct Scratch {
  std::vector<float> values, turned;
  bool overflows = false;
};

// A row of [inputs][taps] as [taps][padded inputs].
void turn(const float* row, const PackedWeight& w, std::vector<float>& to) {
  const int64_t padded = padded_inputs(w);
  to.assign(static_cast<size_t>(padded * w.kernel), 0.0f);
  for (int64_t tap = 0; tap < w.kernel; ++tap) {
    for (int64_t i = 0; i < w.inputs; ++i) {
      to[static_cast<size_t>(tap * padded + i)] = row[i * w.kernel + tap];
    }
  }
}

// The rows [begin, end), whose blocks may cross from one row into the next, ready for the device.
void convert(const Tensor& weight, const PackedWeight& w, int64_t begin, int64_t end,
             Scratch& scratch, std::byte* to) {
  const int64_t row = w.inputs * w.kernel, block = type_info(weight.type).block_size;
  const int64_t padded_row = padded_inputs(w) * w.kernel;
  const int64_t first = begin * row / block * block;
  const int64_t last = std::min((end * row + block - 1) / block * block, w.outputs * row);
  scratch.values.resize(static_cast<size_t>(last - first));
  to_float(weight, first, last - first, scratch.values.data());
  const auto rounds_to_infinity = [](float x) { return std::abs(x) >= 65520.0f; };
  scratch.overflows |=
      w.stored == Type::f16 && std::ranges::any_of(scratch.values, rounds_to_infinity);
  for (int64_t o = begin; o < end; ++o, to += padded_row * dtype_size(w.dtype)) {
    turn(scratch.values.data() + (o * row - first), w, scratch.turned);
    type_info(w.stored).from_float(scratch.turned.data(), nullptr, to, padded_row);
  }
}

// Blocks that the kernels unpack go up as they lie in the file.
bool keeps_blocks(const Tensor& weight, const PackedWeight& w) {
  return w.dtype != DType::f32 && w.kernel == 1 &&
         w.inputs % type_info(weight.type).block_size == 0 && stays_quantized(weight.type);
}

Type stored_type(const Tensor& weight, const PackedWeight& w) {
  if (keeps_blocks(weight, w)) return weight.type;
  return type_of(w.dtype);
}

bool lies_as_wanted(const Tensor& weight, const PackedWeight& w) {
  if (w.gated) return false;
  return keeps_blocks(weight, w) ||
         (weight.type == stored_type(weight, w) && w.kernel == 1 && w.inputs == padded_inputs(w));
}

int64_t row_bytes(const Tensor& weight, const PackedWeight& w) {
  if (keeps_blocks(weight, w)) return weight.bytes() / w.outputs;
  return padded_inputs(w) * w.kernel * dtype_size(w.dtype);
}

// The row of the weight that a row on the device is.
int64_t source_row(const PackedWeight& w, int64_t row) {
  const int64_t run = row / kGateRun, half = run % 2 * (w.outputs / 2);
  return half + run / 2 * kGateRun + row % kGateRun;
}

void prepare(const Tensor& weight, const PackedWeight& w, int64_t begin, int64_t end,
             Scratch& scratch, std::byte* to) {
  if (!w.gated) return convert(weight, w, begin, end, scratch, to);
  const int64_t bytes = row_bytes(weight, w);
  for (int64_t row = begin; row < end; ++row, to += bytes) {
    const int64_t from = source_row(w, row);
    if (keeps_blocks(weight, w)) {
      std::memcpy(to, static_cast<const std::byte*>(weight.data) + from * bytes,
                  static_cast<size_t>(bytes));
    } else {
      convert(weight, w, from, from + 1, scratch, to);
    }
  }
}

// Calls take(offset, data, bytes) for pieces of a weight that does not lie as it is wanted, some
// rows at a time: a program that puts a model onto a GPU may have less memory than that.
template <class Take>
void for_pieces(const Tensor& weight, const PackedWeight& w, ThreadPool& pool, Take take) {
  const int64_t bytes = row_bytes(weight, w);
  const int64_t piece = std::max<int64_t>(1, (int64_t{4} << 20) / bytes);
  const int64_t pieces = (w.outputs + piece - 1) / piece;
  const int64_t together = pool.size();
  std::vector<Scratch> scratches(static_cast<size_t>(together));
  Buffer staged(static_cast<size_t>(together * piece * bytes));
  for (int64_t first = 0; first < pieces; first += together) {
    const int64_t count = std::min(together, pieces - first);
    pool.parallel_for(count, [&](int64_t i, int thread) {
      const int64_t begin = (first + i) * piece;
      prepare(weight, w, begin, std::min(w.outputs, begin + piece),
              scratches[static_cast<size_t>(thread)], staged.data() + i * piece * bytes);
    });
    // Cut off at the largest, it would be another network, and nobody would know.
    require(std::ranges::none_of(scratches, &Scratch::overflows), ErrorKind::invalid_argument,
            "[gemm] a weight is beyond 65504, the largest number of f16: use dtype bf16 or f32");
    const int64_t begin = first * piece, end = std::min(w.outputs, (first + count) * piece);
    take(begin * bytes, staged.data(), static_cast<size_t>((end - begin) * bytes));
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
  return static_cast<size_t>(row_bytes(weight, w) * w.outputs);
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

namespace {

// Tuning points: blocks that give a large GPU work, steps that are worth a block of its own, and
// the most parts of a sum.
constexpr int64_t kWantedBlocks = 128, kLeastSteps = 8, kMostParts = 16;

// How many parts sums are split into. One image decides and not the batch, which must not change a
// picture; the plain kernel has none.
int parts_of(const View& in, const View& out, int64_t taps, int64_t outputs) {
  constexpr int64_t kTile = 64;
  const auto blocks = [](int64_t count, int64_t size) { return (count + size - 1) / size; };
  const int64_t tiles = blocks(out.h * out.w, kTile) * blocks(outputs, kTile);
  const int64_t steps = blocks(in.c, kGpuStep) * taps;
  if (in.dtype == DType::f32 || tiles == 0) return 1;
  const int64_t parts = std::min({kWantedBlocks / tiles, steps / kLeastSteps, kMostParts});
  if (parts <= 1) return 1;
  return static_cast<int>(blocks(steps, blocks(steps, parts)));  // none is empty
}

}  // namespace

size_t device_workspace(const View& in, const View& out, int64_t taps, int64_t outputs,
                        const gpu::Device& device) {
  const int parts = parts_of(in, out, taps, outputs);
  const int64_t sums = parts == 1 ? 0 : parts * out.pixels() * outputs * int64_t{sizeof(float)};
  // A weight may turn out to be in blocks.
  const bool unpacks = device.architecture() == 90 && taps == 1 && in.dtype != DType::f32;
  const int64_t row = (in.c + kGpuStep - 1) / kGpuStep * kGpuStep;
  const int64_t unpacked = unpacks ? outputs * row * dtype_size(in.dtype) : 0;
  return align_up(static_cast<size_t>(std::max(sums, unpacked)));
}

void multiply_on_device(const View& in, const View& out, const PackedWeight& weight,
                        const Window& window, const Padding& padding, const Epilogue& epilogue,
                        const KernelContext& context, void* workspace) {
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
  product.columns = weight.outputs;
  product.parts = parts_of(in, out, weight.kernel, weight.outputs);
  product.partial = static_cast<float*>(workspace);
  product.unpacked = workspace;
  require(product.parts == 1 || workspace, ErrorKind::internal, "[gemm] no workspace for sums in ",
          product.parts, " parts");
  gpu_kernel(*context.device).multiply(product, *context.device);
}

}  // namespace sdcore::gemm
