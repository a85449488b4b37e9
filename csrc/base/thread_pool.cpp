#include "base/thread_pool.h"

#include <exception>
#include <map>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "base/cpu.h"
#include "base/env.h"
#include "base/error.h"
#include "base/forks.h"
#include "base/guarded.h"

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

// The tasks of one thread, of which others take the next once they have none. So neighbours run on
// one core, and find in its caches what the same part of the step before left there.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

}  // namespace

struct ThreadPool::Crew {
  explicit Crew(int threads);
  ~Crew() { stop(); }

  void stop();
  void run(int64_t count, Task body, void* with);
  void work(int thread);
  void drain(int thread);

  const uint32_t forks = fork_count();
  std::recursive_mutex owner;
  std::vector<Buffer> scratch;
  Buffer shared_scratch;
  std::vector<std::thread> workers;
  Task task = nullptr;
  void* context = nullptr;
  std::vector<Share> shares;
  alignas(64) std::atomic<int> busy{0};
  alignas(64) std::atomic<uint32_t> generation{0};
  std::atomic<bool> stopping{false};
};

ThreadPool::Crew::Crew(int threads)
    : scratch(static_cast<size_t>(threads)), shares(static_cast<size_t>(threads)) {
  try {
    for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { work(i); });
  } catch (const std::exception& error) {
    stop();
    fail(ErrorKind::out_of_memory, "[threads] the system started ", workers.size(), " of ",
         threads - 1, " threads: ", error.what(), "; ask for fewer with threads=");
  }
}

void ThreadPool::Crew::stop() {
  stopping.store(true);
  generation.fetch_add(1);
  generation.notify_all();
  for (std::thread& worker : workers) worker.join();
}

void ThreadPool::Crew::run(int64_t count, Task body, void* with) {
  const std::unique_lock lock(owner);
  if (count == 1 || workers.empty()) {
    for (int64_t i = 0; i < count; ++i) body(with, i, 0);
    return;
  }
  task = body;
  context = with;
  const auto parts = static_cast<int64_t>(shares.size());
  for (int64_t i = 0; i < parts; ++i) {
    Share& share = shares[static_cast<size_t>(i)];
    share.next.store(count * i / parts, std::memory_order_relaxed);
    share.end = count * (i + 1) / parts;
  }
  busy.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
  generation.fetch_add(1, std::memory_order_release);
  generation.notify_all();
  drain(0);
  // Workers must have left before task and context change, even those that found nothing to do.
  int spins = 0;
  for (int left; (left = busy.load(std::memory_order_acquire)) != 0;) {
    if (++spins < kSpins) {
      relax();
    } else {
      busy.wait(left, std::memory_order_acquire);
    }
  }
}

void ThreadPool::Crew::drain(int thread) {
  for (size_t i = 0; i < shares.size(); ++i) {
    Share& share = shares[(static_cast<size_t>(thread) + i) % shares.size()];
    for (int64_t at; (at = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
      task(context, at, thread);
    }
  }
}

void ThreadPool::Crew::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    for (int spins = 0; generation.load(std::memory_order_acquire) == seen; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        generation.wait(seen, std::memory_order_acquire);
      }
    }
    seen = generation.load(std::memory_order_acquire);
    if (stopping.load()) return;
    drain(thread);
    if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) busy.notify_one();
  }
}

void ThreadPool::OwnCrewDeleter::operator()(Crew* crew) const {
  if (crew->forks == fork_count()) delete crew;
}

ThreadPool::ThreadPool(int threads) : threads_(threads), crew_(nullptr) {
  require(threads >= 1 && threads <= 1024, ErrorKind::invalid_argument,
          "[threads] must be between 1 and 1024, got ", threads);
  owner_.reset(new Crew(threads));
  crew_.store(owner_.get());
}

ThreadPool::~ThreadPool() = default;

ThreadPool::Crew& ThreadPool::crew() {
  Crew* current = crew_.load(std::memory_order_acquire);
  if (current->forks == fork_count()) return *current;
  std::unique_ptr<Crew, OwnCrewDeleter> fresh(new Crew(threads_));
  if (!crew_.compare_exchange_strong(current, fresh.get(), std::memory_order_acq_rel)) {
    return *current;  // another thread was faster
  }
  owner_ = std::move(fresh);  // by one thread a process, the one that was faster
  return *owner_;
}

std::byte* ThreadPool::scratch(int thread) const {
  return crew_.load(std::memory_order_acquire)->scratch[static_cast<size_t>(thread)].data();
}

std::byte* ThreadPool::shared_scratch() const {
  return crew_.load(std::memory_order_acquire)->shared_scratch.data();
}

std::unique_lock<std::recursive_mutex> ThreadPool::reserve_scratch(size_t bytes_per_thread,
                                                                   size_t shared_bytes) {
  Crew& here = crew();
  std::unique_lock lock(here.owner);
  if (here.shared_scratch.size() < shared_bytes) here.shared_scratch = Buffer(shared_bytes);
  for (Buffer& buffer : here.scratch) {
    if (buffer.size() < bytes_per_thread) buffer = Buffer(bytes_per_thread);
  }
  return lock;
}

void ThreadPool::run(int64_t tasks, Task task, void* context) {
  if (tasks > 0) crew().run(tasks, task, context);
}

std::shared_ptr<ThreadPool> shared_pool(int threads) {
  static Guarded<std::map<int, std::weak_ptr<ThreadPool>>> all;
  const auto pools = all.lock();
  std::weak_ptr<ThreadPool>& known = (*pools)[threads];
  std::shared_ptr<ThreadPool> pool = known.lock();
  if (!pool) known = pool = std::make_shared<ThreadPool>(threads);
  return pool;
}

std::shared_ptr<ThreadPool> default_pool() {
  return shared_pool(env::num_threads().value_or(available_cpus()));
}

}  // namespace sdcore
