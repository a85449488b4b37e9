// How kernels see an activation: channels-last, strided, never owning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string_view>

#include "base/half.h"

namespace sdcore {

// What activations are held in; f16 on GPUs only. Weights have many more types (quant/types.h),
// whose names these share.
enum class DType : uint8_t { f32, bf16, f16, i32 };

struct DTypeInfo {
  const char* name;
  int64_t size;
};
inline constexpr DTypeInfo kDTypes[] = {{"f32", 4}, {"bf16", 2}, {"f16", 2}, {"i32", 4}};

constexpr int64_t dtype_size(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].size; }
constexpr const char* dtype_name(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }
constexpr std::optional<DType> find_dtype(std::string_view name) {
  for (size_t i = 0; i < std::size(kDTypes); ++i) {
    if (name == kDTypes[i].name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

// An image is [n, h, w, c]; tokens are [n, 1, t, c]; a vector per image is [n, 1, 1, c]. Channels
// are adjacent; the other strides are in elements, so a view may be a slice of the channels of a
// wider buffer (that is how a concat costs nothing) or the inside of a buffer with a border.
struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t n = 1, h = 1, w = 1, c = 0;
  int64_t stride_n = 0, stride_h = 0, stride_w = 0;
  // Pixels of border around each image, top, bottom, left and right, that exist in memory and hold
  // zeros.
  int halo = 0;

  int64_t pixels() const { return n * h * w; }
  template <class T>
  T* at(int64_t in, int64_t iy, int64_t ix) const {
    return static_cast<T*>(data) + in * stride_n + iy * stride_h + ix * stride_w;
  }
};

inline View dense_view(void* data, DType dtype, int64_t n, int64_t h, int64_t w, int64_t c) {
  return {data, dtype, n, h, w, c, h * w * c, w * c, c, 0};
}

}  // namespace sdcore
