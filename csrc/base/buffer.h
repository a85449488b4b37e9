// A block of memory aligned for any vector or tile load.
#pragma once

#include <cstddef>
#include <memory>

namespace sdcore {

inline constexpr size_t kAlignment = 64;

constexpr size_t align_up(size_t value, size_t alignment = kAlignment) {
  return (value + alignment - 1) / alignment * alignment;
}

class Buffer {
 public:
  Buffer() = default;
  // Throws Error(out_of_memory).
  explicit Buffer(size_t bytes);
  std::byte* data() const { return data_.get(); }
  size_t size() const { return data_.get_deleter().bytes; }

 private:
  struct Free {
    size_t bytes;
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> data_{nullptr, Free{0}};
};

}  // namespace sdcore
