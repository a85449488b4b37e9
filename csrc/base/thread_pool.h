// Threads that wait for work by spinning briefly and then sleeping, so that the short steps of a
// network start at once and an idle program uses no processor.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>

namespace sdcore {

// In a forked child, which has the pool and not its threads, the first use starts others.
class ThreadPool {
 public:
  // `threads` counts the calling thread, so 1 starts none.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return threads_; }

  // Calls body(task, thread) for every task in [0, tasks), in no fixed order, with 0 <= thread <
  // size(). Callers from several threads take turns. `body` must not throw and must not call
  // parallel_for.
  template <class Body>
  void parallel_for(int64_t tasks, Body&& body) {
    using Fn = std::remove_reference_t<Body>;
    run(
        tasks,
        [](void* context, int64_t task, int thread) { (*static_cast<Fn*>(context))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Memory of one thread, kept between calls; valid until that thread asks for more. Contents are
  // whatever was left there. Throws out_of_memory, so ask for it before parallel_for:
  // reserve_scratch.
  std::byte* scratch(int thread) const;

  // The same for all threads together.
  std::byte* shared_scratch() const;

  // The lock that parallel_for takes; hold it across reserve_scratch and the parallel_for that uses
  // it.
  std::unique_lock<std::recursive_mutex> reserve_scratch(size_t bytes_per_thread,
                                                         size_t shared_bytes = 0);

 private:
  using Task = void (*)(void* context, int64_t task, int thread);

  struct Crew;  // threads with all that they touch
  // Leaves those of a parent process alone: its threads are not here to be joined, and may have
  // held the crew's lock or been changing it.
  struct OwnCrewDeleter {
    void operator()(Crew* crew) const;
  };

  void run(int64_t tasks, Task task, void* context);
  Crew& crew();  // this process's

  const int threads_;
  std::unique_ptr<Crew, OwnCrewDeleter> owner_;  // of what crew_ shows
  std::atomic<Crew*> crew_;                      // found without a lock, which a fork might leave
};

// The pool that is used when the caller names no number of threads.
std::shared_ptr<ThreadPool> default_pool();

// A pool of the given size; pools are shared, so asking twice gives the same one while it lives.
std::shared_ptr<ThreadPool> shared_pool(int threads);

}  // namespace sdcore
