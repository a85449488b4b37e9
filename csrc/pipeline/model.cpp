#include "pipeline/model.h"

#include "base/cpu.h"
#include "base/error.h"
#include "graph/model_file.h"

namespace sdcore {
namespace {

// As RunOptions of python/sdcore/models/base.py: bf16 on GPUs, and where the processor multiplies
// it in hardware.
DType resolve(const std::string& dtype, const NetworkOptions& run) {
  if (dtype == "f32") return DType::f32;
  if (dtype == "bf16") return DType::bf16;
  require(dtype == "auto", ErrorKind::invalid_argument,
          "[model] dtype must be auto, f32 or bf16, got '", dtype, "'");
  return run.device || run.isa == Isa::amx ? DType::bf16 : DType::f32;
}

TextToImage make_pipeline(const Model& model, const gguf::Metadata& metadata) {
  const auto network = [&model](const char* name) {
    const auto found = model.networks.find(name);
    require(found != model.networks.end(), ErrorKind::checkpoint,
            "[model] the file holds a pipeline without its network '", name, "'");
    return found->second;
  };
  TextToImage::Networks networks{network("text_encoder"), network("unet"), network("vae_decoder")};
  return {std::move(networks), read_settings(metadata)};
}

}  // namespace

Model open_model(const std::filesystem::path& path, const ModelOptions& options) {
  NetworkOptions run;
  run.isa = default_isa();
  run.pool = options.threads ? shared_pool(*options.threads) : default_pool();
  if (options.device != "cpu") run.device = &gpu::open_device(options.device);
  ModelFile file = load_model(path);
  run.dtype = resolve(options.dtype.empty() ? default_dtype(file.metadata) : options.dtype, run);
  Model model;
  for (auto& [name, stored] : file.graphs) {
    auto weights = std::make_shared<WeightStore>(std::move(stored.weights));
    model.networks[name] =
        std::make_shared<Network>(std::move(stored.graph), std::move(weights), run);
  }
  if (has_pipeline(file.metadata)) model.text_to_image = make_pipeline(model, file.metadata);
  return model;
}

}  // namespace sdcore
