// The structures of DLPack (dmlc/dlpack, include/dlpack/dlpack.h, version 1.0), whose layout is a
// promise, and what of them is used here.
#pragma once

#include <cstdint>

namespace sdcore::bindings::dlpack {

enum DeviceType : int32_t { cpu = 1, cuda = 2, cuda_managed = 13 };
enum TypeCode : uint8_t { signed_integer = 0, floating = 2, brain_floating = 4 };

struct Device {
  int32_t type = cpu, id = 0;
};
struct DataType {
  uint8_t code = floating, bits = 32;
  uint16_t lanes = 1;
};

struct Tensor {
  void* data = nullptr;
  Device device;
  int32_t ndim = 0;
  DataType dtype;
  int64_t *shape = nullptr, *strides = nullptr;  // in elements; no strides: rows after rows
  uint64_t byte_offset = 0;
};

struct Version {
  uint32_t major = 1, minor = 0;
};

struct Versioned {
  static constexpr const char *kName = "dltensor_versioned", *kUsed = "used_dltensor_versioned";
  Version version;
  void* owner = nullptr;
  void (*deleter)(Versioned*) = nullptr;
  uint64_t flags = 0;
  Tensor tensor;
};
constexpr uint64_t kReadOnly = 1;

// Before 1.0.
struct Unversioned {
  static constexpr const char *kName = "dltensor", *kUsed = "used_dltensor";
  Tensor tensor;
  void* owner = nullptr;
  void (*deleter)(Unversioned*) = nullptr;
};

}  // namespace sdcore::bindings::dlpack
