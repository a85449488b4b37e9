// The border of the C ABI: exceptions become a status and a text, parameter structs of any age are
// read safely.
#pragma once

#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include "base/error.h"
#include "sdcore/sdcore.h"

namespace sdcore::capi {

// Keeps the text for sdc_last_error() and gives the status back.
sdc_status set_error(sdc_status status, std::string_view text) noexcept;

sdc_status status_of(ErrorKind kind) noexcept;

// Runs the body of a public function. Whatever it throws stays here.
template <class Body>
sdc_status guard(Body&& body) noexcept {
  try {
    body();
    return SDC_OK;
  } catch (const Error& error) {
    return set_error(status_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return set_error(SDC_OUT_OF_MEMORY, "[memory] there is not enough memory");
  } catch (const std::exception& error) {
    return set_error(SDC_INTERNAL, error.what());
  } catch (...) {
    return set_error(SDC_INTERNAL, "[capi] something that is no exception was thrown");
  }
}

template <class T>
T& given(T* pointer, const char* name) {
  require(pointer != nullptr, ErrorKind::invalid_argument, "[capi] ", name, " is NULL");
  return *pointer;
}

// For `out` arguments: never left as the caller's old value.
template <class T>
T& cleared(T* out) {
  return given(out, "out") = T{};
}

// A copy of the caller's struct, over our own defaults: an older program's is shorter. A newer
// program's is longer, which is well as long as it leaves what we do not know at zero.
template <class Params>
Params read_params(const Params* params, const char* name, Params ours) {
  const size_t size = given(params, name).struct_size;
  require(size > sizeof(size_t), ErrorKind::invalid_argument, "[capi] ", name, "->struct_size is ",
          size, ": fill the struct with its _init function");
  const auto* bytes = reinterpret_cast<const char*>(params);
  for (size_t i = sizeof(Params); i < size; ++i) {
    require(bytes[i] == 0, ErrorKind::invalid_argument, "[capi] ", name,
            " asks for something that sdcore ", SDCORE_VERSION, " does not know");
  }
  std::memcpy(&ours, params, size < sizeof(Params) ? size : sizeof(Params));
  return ours;
}

// The reverse, for an _init function: our defaults as far as the caller's struct goes.
template <class Params>
void write_params(Params* params, size_t size, Params ours) {
  if (!params || size < sizeof(size_t)) return;
  ours.struct_size = size;
  std::memset(static_cast<void*>(params), 0, size);
  std::memcpy(static_cast<void*>(params), &ours, size < sizeof(Params) ? size : sizeof(Params));
}

}  // namespace sdcore::capi
