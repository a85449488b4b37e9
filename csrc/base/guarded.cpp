#include "base/guarded.h"

#include "base/forks.h"

namespace sdcore {

// The word is the count of forks of the last holder's process, and a bit that is set while it
// holds: a lock that a parent's thread holds looks like no lock of this process.
Hold::Hold(std::atomic<uint32_t>& word) : word_(word), held_(fork_count() << 1 | 1) {
  uint32_t seen = word_.load(std::memory_order_relaxed);
  while (true) {
    if (seen == held_) {
      word_.wait(seen, std::memory_order_relaxed);
      seen = word_.load(std::memory_order_relaxed);
    } else if (word_.compare_exchange_weak(seen, held_, std::memory_order_acquire,
                                           std::memory_order_relaxed)) {
      break;
    }
  }
  is_inherited_ = seen & 1;
}

Hold::~Hold() {
  // The thread that forked may have held it, and another one of the child's may have taken it over.
  uint32_t seen = held_;
  if (word_.compare_exchange_strong(seen, held_ & ~1u, std::memory_order_release,
                                    std::memory_order_relaxed)) {
    word_.notify_one();
  }
}

}  // namespace sdcore
