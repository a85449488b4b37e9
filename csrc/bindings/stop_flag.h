// What ends a run of a network before it is done: a flag that another thread sets, or a signal.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

namespace sdcore::bindings {

class StopFlag : public std::enable_shared_from_this<StopFlag> {
 public:
  void set() { set_ = true; }
  bool is_set() const { return set_; }
  // Between the two it ends what this thread runs. They may be nested.
  void enter();
  void leave();

 private:
  std::atomic<bool> set_ = false;
};

// For Observer::before_step. To be called with the interpreter's lock, and what it gives without:
// that throws Error(cancelled) once this thread's flag is set, and what a signal's handler raised,
// KeyboardInterrupt as a rule.
std::function<void()> look_for_end();

}  // namespace sdcore::bindings
