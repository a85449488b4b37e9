// Options that several bindings take, from their Python spelling.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/cpu.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "gpu/device.h"
#include "runtime/network.h"

namespace sdcore::bindings {

// None means default_isa(); a level above the hardware's is refused.
inline Isa isa_or_default(const std::optional<std::string>& name) {
  if (!name) return default_isa();
  const Isa isa = parse_isa(*name);
  require(permits(hardware_isa(), isa), ErrorKind::invalid_argument, "[isa] this processor has no ",
          *name);
  return isa;
}

// Null for "cpu".
inline gpu::Device* device_of(const std::string& name) {
  return name == "cpu" ? nullptr : &gpu::open_device(name);
}

// Of weights, by name.
using TypeNames = std::map<std::string, std::string>;
inline WeightTypes weight_types(const TypeNames& names) {
  WeightTypes types;
  for (const auto& [name, type] : names) {
    const TypeInfo* info = find_type(type);
    require(info != nullptr, ErrorKind::invalid_argument, "[dtype] unknown type '", type, "'");
    types.emplace(name, info->type);
  }
  return types;
}

inline std::shared_ptr<ThreadPool> pool_of(std::optional<int> threads) {
  return threads ? shared_pool(*threads) : default_pool();
}

}  // namespace sdcore::bindings
