// A dense array in a device's memory: this program's own, or another's that lends it.
#pragma once

#include "base/shape.h"
#include "base/view.h"
#include "gpu/device.h"

namespace sdcore::gpu {

struct Array {
  Device* device = nullptr;
  std::shared_ptr<const void> memory;  // what keeps it there
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  bool read_only = false;

  size_t bytes() const { return static_cast<size_t>(element_count(shape) * dtype_size(dtype)); }
};

inline Array new_array(Device& device, DType dtype, Shape shape) {
  Array array{&device, nullptr, nullptr, dtype, std::move(shape)};
  // An empty one has an address too.
  const auto memory = device.allocate(array.bytes() + 1, "an array");
  array.memory = memory;
  array.data = memory->data();
  return array;
}

}  // namespace sdcore::gpu
