#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>

#include "base/error.h"

namespace sdcore {
namespace {

// From here on blocks are the system's own, so that they go back to it: a heap keeps what is freed
// between other blocks, and glibc's takes ever larger ones once it has freed a large one.
constexpr size_t kOwnPages = 1 << 20;

std::byte* take(size_t bytes) {
  if (bytes < kOwnPages) {
    return static_cast<std::byte*>(std::aligned_alloc(kAlignment, align_up(bytes)));
  }
  void* pages = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return pages == MAP_FAILED ? nullptr : static_cast<std::byte*>(pages);
}

}  // namespace

Buffer::Buffer(size_t bytes) {
  if (bytes == 0) return;
  data_ = {take(bytes), Free{bytes}};
  require(data_ != nullptr, ErrorKind::out_of_memory, "[memory] could not get ", bytes, " bytes");
}

void Buffer::Free::operator()(std::byte* p) const {
  if (bytes < kOwnPages) {
    std::free(p);
  } else {
    ::munmap(p, bytes);
  }
}

}  // namespace sdcore
