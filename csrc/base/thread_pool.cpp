#include "base/thread_pool.h"

#include <map>

#include "base/cpu.h"
#include "base/env.h"
#include "base/error.h"

namespace sdcore {
namespace {

// Some 50 to 200 microseconds, as long as a pause is on the processor: longer than the gap between
// two kernels, shorter than a person notices.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  require(threads >= 1 && threads <= 1024, ErrorKind::invalid_argument,
          "[threads] must be between 1 and 1024, got ", threads);
  scratch_.resize(static_cast<size_t>(threads));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

std::unique_lock<std::recursive_mutex> ThreadPool::reserve_scratch(size_t bytes_per_thread,
                                                                   size_t shared_bytes) {
  std::unique_lock lock(owner_);
  if (shared_scratch_.size() < shared_bytes) shared_scratch_ = Buffer(shared_bytes);
  for (Buffer& buffer : scratch_) {
    if (buffer.size() < bytes_per_thread) buffer = Buffer(bytes_per_thread);
  }
  return lock;
}

void ThreadPool::run(int64_t tasks, Task task, void* context) {
  if (tasks <= 0) return;
  const std::unique_lock lock(owner_);
  if (tasks == 1 || workers_.empty()) {
    for (int64_t i = 0; i < tasks; ++i) task(context, i, 0);
    return;
  }
  task_ = task;
  context_ = context;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  drain(0);
  // Workers must have left before task_ and context_ change, even those that found nothing to do.
  int spins = 0;
  for (int left; (left = busy_.load(std::memory_order_acquire)) != 0;) {
    if (++spins < kSpins) {
      relax();
    } else {
      busy_.wait(left, std::memory_order_acquire);
    }
  }
}

void ThreadPool::drain(int thread) {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
    task_(context_, i, thread);
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    drain(thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

std::shared_ptr<ThreadPool> shared_pool(int threads) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<ThreadPool>> pools;
  const std::lock_guard lock(mutex);
  std::shared_ptr<ThreadPool> pool = pools[threads].lock();
  if (!pool) pools[threads] = pool = std::make_shared<ThreadPool>(threads);
  return pool;
}

std::shared_ptr<ThreadPool> default_pool() {
  return shared_pool(env::num_threads().value_or(available_cpus()));
}

}  // namespace sdcore
