// The C ABI: arguments checked and translated, nothing else.
#include "sdcore/sdcore.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "capi/guard.h"
#include "pipeline/model.h"

using namespace sdcore;
using capi::cleared;
using capi::given;
using capi::guard;
using capi::read_params;
using capi::write_params;

struct sdc_model {
  Model model;
};

struct sdc_images {
  Images images;
};

struct sdc_tensors {
  std::map<std::string, FloatArray> arrays;
};

namespace {

template <class T>
std::optional<T> optional(T value) {
  return value == static_cast<T>(SDC_DEFAULT) ? std::nullopt : std::optional<T>(value);
}

sdc_generate_params default_params() {
  sdc_generate_params params{};
  params.width = params.height = params.steps = SDC_DEFAULT;
  params.guidance_scale = SDC_DEFAULT;
  params.seed = SDC_DEFAULT;
  params.count = 1;
  params.strength = ImageRequest{}.strength;
  return params;
}

std::optional<PictureBytes> to_picture(const uint8_t* samples, int32_t width, int32_t height,
                                       const char* name) {
  if (samples) return PictureBytes{width, height, samples};
  require(width == 0 && height == 0, ErrorKind::invalid_argument, "[capi] params->", name,
          " is NULL, and its size is ", width, " x ", height);
  return {};
}

ImageRequest to_request(const sdc_generate_params& params) {
  ImageRequest request;
  request.prompt = &given(params.prompt, "params->prompt");
  if (params.negative_prompt) request.negative_prompt = params.negative_prompt;
  request.width = optional<int64_t>(params.width);
  request.height = optional<int64_t>(params.height);
  request.steps = optional<int64_t>(params.steps);
  request.guidance_scale = optional(params.guidance_scale);
  request.seed = optional(params.seed);
  request.count = params.count;
  request.image = to_picture(params.image, params.image_width, params.image_height, "image");
  request.mask = to_picture(params.mask, params.mask_width, params.mask_height, "mask");
  request.strength = params.strength;
  if (params.on_step) {
    request.on_step = [call = params.on_step, user = params.user](int64_t done, int64_t total) {
      return call(static_cast<int32_t>(done), static_cast<int32_t>(total), user) == 0;
    };
  }
  if (params.should_stop) {
    request.should_stop = [call = params.should_stop, user = params.user] {
      return call(user) != 0;
    };
  }
  return request;
}

Network& find_network(const Model& model, const std::string& name) {
  const auto found = model.networks.find(name);
  if (found != model.networks.end()) return *found->second;
  std::string known;
  for (const auto& [other, network] : model.networks) known += (known.empty() ? "" : ", ") + other;
  fail(ErrorKind::invalid_argument, "[network] there is no network '", name, "'; the file holds ",
       known);
}

const ImagePipeline& pipeline_of(const sdc_model& model) {
  require(model.model.pipeline.has_value(), ErrorKind::unsupported_model,
          "[model] the file holds networks, but no pipeline: write one with "
          "DiffusionPipeline.export");
  return *model.model.pipeline;
}

// Of a map, in the order of its keys.
template <class Map>
const auto& entry_at(const Map& map, size_t index, const char* what) {
  require(index < map.size(), ErrorKind::invalid_argument, "[capi] there is no ", what, " ", index,
          " among ", map.size());
  return *std::next(map.begin(), static_cast<std::ptrdiff_t>(index));
}

void add_input(NetworkInputs& inputs, const Graph& graph, const sdc_tensor& tensor) {
  const std::string name = &given(tensor.name, "name of an input");
  const auto input =
      std::find_if(graph.values.begin(), graph.values.end(), [&name](const Value& value) {
        return value.kind == Value::Kind::input && value.name == name;
      });
  require(input != graph.values.end(), ErrorKind::invalid_argument, "[network] there is no input '",
          name, "'");
  const sdc_dtype wanted = input->dtype == DType::i32 ? SDC_I32 : SDC_F32;
  require(tensor.dtype == wanted, ErrorKind::invalid_argument, "[network] input '", name,
          "' must be ", dtype_name(input->dtype));
  require(tensor.rank >= 1 && tensor.rank <= 4, ErrorKind::invalid_argument, "[network] input '",
          name, "' must have 1 to 4 dimensions, got ", tensor.rank);
  const int64_t* shape = &given(tensor.shape, "shape of an input");
  inputs.add(name, Shape(shape, shape + tensor.rank),
             &given(static_cast<const char*>(tensor.data), "data of an input"));
}

}  // namespace

// ---- library and machine
// -------------------------------------------------------------------------

const char* sdc_version(void) { return SDCORE_VERSION; }

const char* sdc_cpu_features(void) try {
  static const std::string words = [] {
    std::string text;
    for (const CpuFeature& feature : cpu_features()) {
      if (feature.present) text += (text.empty() ? "" : " ") + feature.name;
    }
    return text;
  }();
  return words.c_str();
} catch (...) {
  return "";  // no memory for the words
}

sdc_status sdc_cpu_isa(const char** out) {
  return guard([&] { cleared(out) = isa_name(default_isa()); });
}

// ---- models
// --------------------------------------------------------------------------------------

void sdc_model_options_init(sdc_model_options* options, size_t size) {
  write_params(options, size, sdc_model_options{});
}

sdc_status sdc_model_open(const char* path, const sdc_model_options* options, sdc_model** out) {
  return guard([&] {
    cleared(out);
    sdc_model_options ours{};
    if (options) ours = read_params(options, "options", ours);
    require(ours.threads >= 0, ErrorKind::invalid_argument,
            "[capi] threads must be at least 0, got ", ours.threads);
    ModelOptions chosen;
    if (ours.dtype) chosen.dtype = ours.dtype;
    if (ours.threads) chosen.threads = ours.threads;
    if (ours.device) chosen.device = ours.device;
    *out = new sdc_model{open_model(&given(path, "path"), chosen)};
  });
}

void sdc_model_free(sdc_model* model) { delete model; }

sdc_status sdc_model_info_get(const sdc_model* model, sdc_model_info* out, size_t size) {
  return guard([&] {
    require(size >= sizeof(size_t), ErrorKind::invalid_argument, "[capi] size is ", size,
            ": give sizeof(sdc_model_info)");
    write_params(&given(out, "out"), size, sdc_model_info{});
    const PipelineSettings& settings = pipeline_of(given(model, "model")).settings();
    const PipelineDefaults& defaults = settings.defaults;
    const auto number = [](int64_t value) { return static_cast<int32_t>(value); };
    write_params(
        out, size,
        {0, number(defaults.width), number(defaults.height), number(defaults.steps),
         defaults.guidance_scale, number(settings.size.multiple), number(settings.size.largest)});
  });
}

size_t sdc_model_steps_count(const sdc_model* model) {
  const bool none = !model || !model->model.pipeline;
  return none ? 0 : model->model.pipeline->settings().schedules.size();
}

sdc_status sdc_model_steps_get(const sdc_model* model, size_t index, int32_t* out) {
  return guard([&] {
    int32_t& steps = cleared(out);
    const auto& schedules = pipeline_of(given(model, "model")).settings().schedules;
    steps = static_cast<int32_t>(entry_at(schedules, index, "number of steps").first);
  });
}

size_t sdc_model_networks_count(const sdc_model* model) {
  return model ? model->model.networks.size() : 0;
}

sdc_status sdc_model_networks_get(const sdc_model* model, size_t index, const char** out) {
  return guard([&] {
    const char*& name = cleared(out);
    name = entry_at(given(model, "model").model.networks, index, "network").first.c_str();
  });
}

// ---- pictures
// ------------------------------------------------------------------------------------

void sdc_generate_params_init(sdc_generate_params* params, size_t size) {
  write_params(params, size, default_params());
}

sdc_status sdc_generate(const sdc_model* model, const sdc_generate_params* params,
                        sdc_images** out) {
  return guard([&] {
    cleared(out);
    const sdc_model& opened = given(model, "model");
    const ImageRequest request = to_request(read_params(params, "params", default_params()));
    *out = new sdc_images{pipeline_of(opened).generate(request)};
  });
}

size_t sdc_images_count(const sdc_images* images) {
  return images ? images->images.pixels.size() : 0;
}

sdc_status sdc_images_get(const sdc_images* images, size_t index, sdc_image* out) {
  return guard([&] {
    sdc_image& image = cleared(out);
    const Images& made = given(images, "images").images;
    require(index < made.pixels.size(), ErrorKind::invalid_argument, "[capi] there is no image ",
            index, " among ", made.pixels.size());
    image = {static_cast<int32_t>(made.width), static_cast<int32_t>(made.height),
             made.pixels[index].data(), made.seeds[index]};
  });
}

void sdc_images_free(sdc_images* images) { delete images; }

// ---- single networks
// -----------------------------------------------------------------------------

sdc_status sdc_network_run(const sdc_model* model, const char* network, const sdc_tensor* inputs,
                           size_t input_count, sdc_tensors** out) {
  return guard([&] {
    cleared(out);
    const Model& opened = given(model, "model").model;
    Network& found = find_network(opened, &given(network, "network"));
    NetworkInputs converted;
    for (size_t i = 0; i < input_count; ++i) {
      add_input(converted, found.graph(), (&given(inputs, "inputs"))[i]);
    }
    *out = new sdc_tensors{run_network(found, converted)};
  });
}

size_t sdc_tensors_count(const sdc_tensors* tensors) {
  return tensors ? tensors->arrays.size() : 0;
}

sdc_status sdc_tensors_get(const sdc_tensors* tensors, size_t index, sdc_tensor* out) {
  return guard([&] {
    sdc_tensor& tensor = cleared(out);
    const auto& arrays = given(tensors, "tensors").arrays;
    const auto& [name, array] = entry_at(arrays, index, "tensor");
    tensor = {name.c_str(), SDC_F32, static_cast<int32_t>(array.shape.size()), array.shape.data(),
              array.values.data()};
  });
}

void sdc_tensors_free(sdc_tensors* tensors) { delete tensors; }
