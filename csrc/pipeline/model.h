// An exported file, opened: its networks, and its pipeline where it has one.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "pipeline/image_pipeline.h"

namespace sdcore {

struct ModelOptions {
  std::string dtype;           // "auto", "f32", "bf16", "f16" (GPUs); empty: what the file says
  std::optional<int> threads;  // absent: SDCORE_NUM_THREADS, or one a processor
  std::string device = "cpu";  // or what gpu::open_device takes
};

// Immutable, so safe to use from many threads. The weights stay in the mapped file, which must not
// be changed while it is open.
struct Model {
  std::map<std::string, std::shared_ptr<Network>> networks;
  std::optional<ImagePipeline> pipeline;
};

// Throws Error(io), Error(checkpoint) or Error(unsupported_model) for the file, and
// Error(invalid_argument) for the options.
Model open_model(const std::filesystem::path& path, const ModelOptions& options);

}  // namespace sdcore
