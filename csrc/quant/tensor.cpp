// What can be done with a Tensor: see types.h.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <span>

#include "base/buffer.h"
#include "base/error.h"
#include "quant/types.h"

namespace sdcore {
namespace {

// Elements converted by one thread at a time: a multiple of every block size, and small enough for
// the floats between the two types to stay in its cache.
constexpr int64_t kChunk = 8192;

const std::byte* element(const Tensor& tensor, const TypeInfo& info, int64_t index) {
  return static_cast<const std::byte*>(tensor.data) + index / info.block_size * info.block_bytes;
}

Tensor allocate(Type type, const Shape& shape) {
  const int64_t bytes = storage_bytes(type, shape);
  require(bytes >= 0, ErrorKind::invalid_argument, "[convert] shape ", to_string(shape),
          " cannot be stored as ", type_info(type).name, ", whose rows are made of blocks of ",
          type_info(type).block_size);
  const auto buffer = std::make_shared<const Buffer>(static_cast<size_t>(bytes));
  return {buffer->data(), type, shape, buffer};
}

// The first value that is not finite, or -1.
int64_t find_not_finite(const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return i;
  }
  return -1;
}

void check_importance(std::span<const float> importance, const Shape& shape) {
  if (importance.empty()) return;
  const int64_t row = shape.empty() ? 1 : shape.back();
  require(static_cast<int64_t>(importance.size()) == row, ErrorKind::invalid_argument,
          "[convert] importance must have one weight for each of the ", row,
          " numbers of a row, got ", importance.size());
  for (const float weight : importance) {
    require(std::isfinite(weight) && weight >= 0.0f, ErrorKind::invalid_argument,
            "[convert] importance must be finite and not negative, got ", weight);
  }
}

}  // namespace

void to_float(const Tensor& tensor, int64_t begin, int64_t count, float* out) {
  const TypeInfo& info = type_info(tensor.type);
  require(info.to_float != nullptr, ErrorKind::invalid_argument, "[convert] type ", info.name,
          " has no meaning as float");
  info.to_float(element(tensor, info, begin), out, count);
}

Tensor convert(const Tensor& tensor, Type type, ThreadPool& pool,
               std::span<const float> importance) {
  const TypeInfo& from = type_info(tensor.type);
  const TypeInfo& to = type_info(type);
  Tensor result = allocate(type, tensor.shape);
  auto* out = static_cast<std::byte*>(const_cast<void*>(result.data));
  if (from.type == to.type) {
    if (result.bytes() > 0) std::memcpy(out, tensor.data, static_cast<size_t>(result.bytes()));
    return result;
  }
  require(from.to_float && to.from_float, ErrorKind::invalid_argument, "[convert] cannot make ",
          to.name, " of ", from.name);

  check_importance(importance, tensor.shape);

  const int64_t count = tensor.elements();
  // Blocks share a scale, so one NaN or infinity would spoil its neighbours in silence.
  const bool must_be_finite = to.block_size > 1;
  std::atomic<int64_t> culprit{-1};
  pool.parallel_for((count + kChunk - 1) / kChunk, [&](int64_t task, int) {
    const int64_t begin = task * kChunk, size = std::min(kChunk, count - begin);
    float values[kChunk];
    from.to_float(element(tensor, from, begin), values, size);
    if (must_be_finite) {
      if (const int64_t at = find_not_finite(values, size); at >= 0) {
        culprit = begin + at;
        return;
      }
    }
    std::byte* blocks = out + begin / to.block_size * to.block_bytes;
    if (importance.empty()) return to.from_float(values, nullptr, blocks, size);
    const auto row = static_cast<int64_t>(importance.size());
    for (int64_t done = 0; done < size;) {  // a row's part at a time
      const int64_t column = (begin + done) % row, part = std::min(size - done, row - column);
      to.from_float(values + done, importance.data() + column,
                    blocks + done / to.block_size * to.block_bytes, part);
      done += part;
    }
  });
  require(culprit < 0, ErrorKind::invalid_argument, "[convert] element ", culprit.load(),
          " is not a finite number, and ", to.name, " cannot hold such");
  return result;
}

Tensor reshape(const Tensor& tensor, const Shape& shape) {
  require(element_count(shape) == tensor.elements(), ErrorKind::invalid_argument,
          "[reshape] a tensor of shape ", to_string(tensor.shape), " cannot become ",
          to_string(shape));
  require(storage_bytes(tensor.type, shape) >= 0, ErrorKind::invalid_argument, "[reshape] rows of ",
          type_info(tensor.type).name, " are made of blocks of ", type_info(tensor.type).block_size,
          ", and shape ", to_string(shape), " would cut one");
  Tensor result = tensor;
  result.shape = shape;
  return result;
}

Tensor unfold(const Tensor& tensor, const Shape& shape) {
  require(element_count(shape) == tensor.elements(), ErrorKind::invalid_argument,
          "[unfold] a tensor of shape ", to_string(tensor.shape), " cannot become ",
          to_string(shape));
  Tensor result = tensor;
  result.shape = shape;
  return result;
}

Tensor rows(const Tensor& tensor, int64_t begin, int64_t end) {
  require(!tensor.shape.empty(), ErrorKind::invalid_argument, "[rows] the tensor has no axes");
  require(0 <= begin && begin <= end && end <= tensor.shape[0], ErrorKind::invalid_argument,
          "[rows] asked for ", begin, " to ", end, " of ", tensor.shape[0]);
  Tensor result = tensor;
  result.shape[0] = end - begin;
  require(result.bytes() >= 0, ErrorKind::invalid_argument, "[rows] ", begin, " to ", end,
          " would cut a block of ", type_info(tensor.type).name);
  const int64_t all = tensor.bytes();
  if (all > 0) {
    // A tensor with one axis is a single row, cut at its blocks.
    const TypeInfo& info = type_info(tensor.type);
    const int64_t first = begin * (tensor.elements() / tensor.shape[0]);
    require(first % info.block_size == 0, ErrorKind::invalid_argument, "[rows] ", begin, " to ",
            end, " would cut a block of ", info.name);
    result.data = element(tensor, info, first);
  }
  return result;
}

}  // namespace sdcore
