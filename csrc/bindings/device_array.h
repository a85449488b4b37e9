// Arrays in a device's memory, from Python objects that have one.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "gpu/array.h"

namespace sdcore::bindings {

// The same memory by __dlpack__ or __cuda_array_interface__; nothing of it is copied. Throws
// Error(invalid_argument) where it is not this device's, or not dense, or of a type without
// kernels.
gpu::Array share_array(const pybind11::object& object, gpu::Device& device);

// The same for what an argument may be: a DeviceArray, or an array of another library in the memory
// of a GPU; nothing for all else, which is the program's memory.
std::optional<gpu::Array> as_device_array(const pybind11::object& object, gpu::Device& device);

}  // namespace sdcore::bindings
