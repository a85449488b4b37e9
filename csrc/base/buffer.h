// A block of memory aligned for any vector or tile load.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/error.h"

namespace sdcore {

inline constexpr size_t kAlignment = 64;

constexpr size_t align_up(size_t value, size_t alignment = kAlignment) {
  return (value + alignment - 1) / alignment * alignment;
}

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, align_up(bytes))));
    require(data_ != nullptr, ErrorKind::out_of_memory, "[memory] could not get ", bytes, " bytes");
  }
  std::byte* data() const { return data_.get(); }
  size_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t bytes_ = 0;
};

}  // namespace sdcore
