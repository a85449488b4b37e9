// The one error type of the core. Every failure a user can cause is an Error with a kind; the C ABI
// turns the kind into a status code and the Python bindings turn it into an exception class.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace sdcore {

enum class ErrorKind {
  invalid_argument,   // a value the caller passed
  checkpoint,         // a file that is damaged, or not what it says it is
  unsupported_model,  // a sound file of something that cannot be run
  io,                 // the operating system refused
  out_of_memory,
  cancelled,
  internal,  // a fault of sdcore itself
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Joins anything that can be written to a stream: concat("got ", 3, " and ", name).
template <class... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// Throws an Error. Messages name the place, what was wrong and the value:
// fail(ErrorKind::invalid_argument, "[group_norm] channels must divide by groups, got ", c, " and
// ", g).
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, const Args&... args) {
  throw Error(kind, concat(args...));
}

template <class... Args>
void require(bool condition, ErrorKind kind, const Args&... args) {
  if (!condition) [[unlikely]]
    fail(kind, args...);
}

}  // namespace sdcore
