// Reading an exported file's metadata: each value in the type that it must have, or an error that
// names its key.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "gguf/format.h"

namespace sdcore::metadata {

inline constexpr uint32_t kMost = 1 << 16;  // of sizes

template <class T>
const T& get(const gguf::Metadata& metadata, const std::string& key) {
  const gguf::Value* value = gguf::find(metadata, key);
  require(value != nullptr, ErrorKind::checkpoint, "[model] the file's metadata has no ", key);
  const T* typed = std::get_if<T>(value);
  require(typed != nullptr, ErrorKind::checkpoint, "[model] ", key,
          " is of another type: ", gguf::kTypeNames[value->index()]);
  return *typed;
}

template <class T>
const std::vector<T>& get_array(const gguf::Metadata& metadata, const std::string& key) {
  const auto* items = std::get_if<std::vector<T>>(&get<gguf::Array>(metadata, key).items);
  require(items != nullptr, ErrorKind::checkpoint, "[model] ", key, " is an array of another type");
  return *items;
}

inline int64_t get_size(const gguf::Metadata& metadata, const std::string& key,
                        uint32_t most = kMost, uint32_t least = 1) {
  const uint32_t value = get<uint32_t>(metadata, key);
  require(value >= least && value <= most, ErrorKind::checkpoint, "[model] ", key,
          " must be between ", least, " and ", most, ", got ", value);
  return value;
}

inline float get_number(const gguf::Metadata& metadata, const std::string& key) {
  const float value = get<float>(metadata, key);
  require(std::isfinite(value), ErrorKind::checkpoint, "[model] ", key, " must be finite, got ",
          value);
  return value;
}

}  // namespace sdcore::metadata
