#include "bindings/stop_flag.h"

#include <pybind11/pybind11.h>

#include <chrono>
#include <vector>

#include "base/error.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

using Clock = std::chrono::steady_clock;

// Rare enough that the lock costs nothing, often enough that Ctrl-C feels heard.
constexpr std::chrono::milliseconds kBetweenSignals(100);

thread_local std::vector<std::shared_ptr<const StopFlag>> entered;

// The only one in which Python runs handlers of signals.
bool is_main_thread() {
  const py::object main = py::module_::import("threading").attr("main_thread")();
  return main.attr("ident").cast<unsigned long>() == PyThread_get_thread_ident();
}

void run_signal_handlers() {
  const py::gil_scoped_acquire locked;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

}  // namespace

void StopFlag::enter() { entered.push_back(shared_from_this()); }

void StopFlag::leave() {
  if (!entered.empty()) entered.pop_back();
}

std::function<void()> look_for_end() {
  const std::shared_ptr<const StopFlag> flag = entered.empty() ? nullptr : entered.back();
  return [flag, in_main = is_main_thread(), next = Clock::now() + kBetweenSignals]() mutable {
    require(!flag || !flag->is_set(), ErrorKind::cancelled, "[network] stopped by the caller");
    if (!in_main || Clock::now() < next) return;
    next = Clock::now() + kBetweenSignals;
    run_signal_handlers();
  };
}

}  // namespace sdcore::bindings
