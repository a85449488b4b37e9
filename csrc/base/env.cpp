#include "base/env.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace sdcore::env {
namespace {

const char* get(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

std::optional<int> positive(const char* name) {
  const char* text = get(name);
  if (!text) return std::nullopt;
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  require(parsed.ec == std::errc() && parsed.ptr == end && value > 0, ErrorKind::invalid_argument,
          "[environment] ", name, " must be a positive number, got '", text, "'");
  return value;
}

}  // namespace

std::optional<std::string> isa() {
  const char* text = get("SDCORE_ISA");
  return text ? std::optional<std::string>(text) : std::nullopt;
}

std::optional<int> num_threads() {
  if (const auto own = positive("SDCORE_NUM_THREADS")) return own;
  return positive("OMP_NUM_THREADS");
}

std::optional<int> cuda_architecture() { return positive("SDCORE_CUDA_ARCHITECTURE"); }

}  // namespace sdcore::env
