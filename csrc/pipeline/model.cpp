#include "pipeline/model.h"

#include "base/cpu.h"
#include "base/error.h"
#include "graph/model_file.h"

namespace sdcore {
namespace {

DType resolve(const std::string& dtype, const StoredGraph& stored, const NetworkOptions& run) {
  if (dtype != "auto") return activation_dtype(dtype);
  WeightTypes types;
  for (const auto& [name, weight] : stored.weights) types.emplace(name, weight.type);
  return auto_dtype(stored.graph, types, run.isa, run.device != nullptr);
}

ImagePipeline make_pipeline(const Model& model, const gguf::Metadata& metadata) {
  const auto network = [&model](const std::string& name) {
    const auto found = model.networks.find(name);
    require(found != model.networks.end(), ErrorKind::checkpoint,
            "[model] the file holds a pipeline without its network '", name, "'");
    return found->second;
  };
  PipelineSettings settings = read_settings(metadata);
  ImagePipeline::Networks networks;
  for (const TextEncoderSettings& encoder : settings.text.encoders) {
    networks.text.clips.push_back(network(encoder.network));
  }
  if (const std::string& name = settings.text.captions.network; !name.empty()) {
    networks.text.captions = network(name);
  }
  networks.denoiser = network(settings.denoiser);
  networks.vae.decoder = network("vae_decoder");
  const bool encodes = settings.inpaints || model.networks.contains("vae_encoder");
  if (encodes) networks.vae.encoder = network("vae_encoder");
  return {std::move(networks), std::move(settings)};
}

}  // namespace

Model open_model(const std::filesystem::path& path, const ModelOptions& options) {
  NetworkOptions run;
  run.isa = default_isa();
  run.pool = options.threads ? shared_pool(*options.threads) : default_pool();
  if (options.device != "cpu") run.device = &gpu::open_device(options.device);
  ModelFile file = load_model(path);
  const std::string dtype = options.dtype.empty() ? default_dtype(file.metadata) : options.dtype;
  Model model;
  for (auto& [name, stored] : file.graphs) {
    run.dtype = resolve(dtype, stored, run);
    auto weights = std::make_shared<WeightStore>(std::move(stored.weights));
    model.networks[name] =
        std::make_shared<Network>(std::move(stored.graph), std::move(weights), run);
  }
  if (has_pipeline(file.metadata)) model.pipeline = make_pipeline(model, file.metadata);
  return model;
}

}  // namespace sdcore
