#include "base/forks.h"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace sdcore {
namespace {

std::atomic<uint32_t> forks{0};

#if defined(__unix__) || defined(__APPLE__)
void count_fork() { forks.fetch_add(1, std::memory_order_relaxed); }
[[maybe_unused]] const int counting = pthread_atfork(nullptr, nullptr, count_fork);
#endif

}  // namespace

uint32_t fork_count() { return forks.load(std::memory_order_relaxed); }

}  // namespace sdcore
