// Data with the lock that whoever uses it holds. A forked child never waits for a thread that
// stayed with its parent: what that thread was using is left as it is for ever, and the child
// begins with new data. So this is for data that can be made again.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace sdcore {

// The lock, as long as this lives, in the thread that made it.
class Hold {
 public:
  // Waits while a thread of this process has it. `word` is 0 at first.
  explicit Hold(std::atomic<uint32_t>& word);
  ~Hold();
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  // Whether a thread of a parent had it at the fork.
  bool is_inherited() const { return is_inherited_; }

 private:
  std::atomic<uint32_t>& word_;
  const uint32_t held_;
  bool is_inherited_;
};

template <class Data>
class Guarded {
 public:
  class Access {
   public:
    explicit Access(Guarded& of) : hold_(of.word_), data_(of.data(hold_.is_inherited())) {}

    Data& operator*() const { return data_; }
    Data* operator->() const { return &data_; }

   private:
    Hold hold_;
    Data& data_;
  };

  Guarded() = default;
  // Of a child, whose parent was using the data: they may be half changed.
  ~Guarded() {
    if (word_.load(std::memory_order_relaxed) & 1) (void)data_.release();
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  // Keep what this returns as long as the data are used.
  [[nodiscard]] Access lock() { return Access(*this); }

 private:
  Data& data(bool anew) {
    if (anew) {
      auto fresh = std::make_unique<Data>();
      (void)data_.release();
      data_ = std::move(fresh);
    }
    return *data_;
  }

  std::atomic<uint32_t> word_{0};  // see Hold
  std::unique_ptr<Data> data_ = std::make_unique<Data>();
};

}  // namespace sdcore
