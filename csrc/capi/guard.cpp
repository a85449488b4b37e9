#include "capi/guard.h"

#include <string>

namespace sdcore::capi {
namespace {

std::string& last_error() {
  static thread_local std::string text;
  return text;
}

}  // namespace

sdc_status set_error(sdc_status status, std::string_view text) noexcept {
  try {
    last_error() = text;
  } catch (...) {  // no memory for the text; the status still tells
    last_error().clear();
  }
  return status;
}

sdc_status status_of(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::invalid_argument:
      return SDC_INVALID_ARGUMENT;
    case ErrorKind::checkpoint:
      return SDC_CHECKPOINT;
    case ErrorKind::unsupported_model:
      return SDC_UNSUPPORTED_MODEL;
    case ErrorKind::io:
      return SDC_IO;
    case ErrorKind::out_of_memory:
      return SDC_OUT_OF_MEMORY;
    case ErrorKind::cancelled:
      return SDC_CANCELLED;
    case ErrorKind::internal:
      break;
  }
  return SDC_INTERNAL;
}

}  // namespace sdcore::capi

const char* sdc_last_error(void) { return sdcore::capi::last_error().c_str(); }

const char* sdc_status_name(sdc_status status) {
  switch (status) {
    case SDC_OK:
      return "ok";
    case SDC_INVALID_ARGUMENT:
      return "invalid_argument";
    case SDC_CHECKPOINT:
      return "checkpoint";
    case SDC_UNSUPPORTED_MODEL:
      return "unsupported_model";
    case SDC_IO:
      return "io";
    case SDC_OUT_OF_MEMORY:
      return "out_of_memory";
    case SDC_CANCELLED:
      return "cancelled";
    case SDC_INTERNAL:
      return "internal";
  }
  return "unknown";
}
