#include "pipeline/image_pipeline.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "pipeline/picture_cut.h"
#include "pipeline/told.h"
#include "sampler/sampler.h"

namespace sdcore {
namespace {

constexpr int64_t kMaxCount = 1024;  // beyond it a typo is likelier than a wish

// The one output of a network.
FloatArray run_to(Network& network, const NetworkInputs& inputs, const std::string& name) {
  auto outputs = run_network(network, inputs);
  require(outputs.size() == 1, ErrorKind::unsupported_model, "[generate] the ", name, " has ",
          outputs.size(), " outputs, and a pipeline takes one");
  return std::move(outputs.begin()->second);
}

void require_shape(const FloatArray& out, const Shape& expected, const std::string& name) {
  require(out.shape == expected, ErrorKind::unsupported_model, "[generate] the ", name, " gives ",
          to_string(out.shape), " where the pipeline takes ", to_string(expected));
}

// Where there are twice as many channels, the second half is the variance that a model learned,
// which no sampler here asks for.
void drop_variance(FloatArray& out, int64_t channels) {
  if (out.shape.empty() || out.shape.back() != 2 * channels) return;
  const auto c = static_cast<size_t>(channels);
  std::vector<float> means(out.values.size() / 2);
  for (size_t i = 0; i < means.size(); ++i) means[i] = out.values[i / c * 2 * c + i % c];
  out.values = std::move(means);
  out.shape.back() = channels;
}

float to_level(float value) { return std::min(std::max(0.0f, value), 1.0f); }  // 0 for no number

uint8_t to_byte(float level) {
  return static_cast<uint8_t>(std::nearbyint(level * 255.0f));  // half to even, as NumPy rounds
}

std::string listed(const std::map<int64_t, StepTable>& tables) {
  std::string text;
  for (const auto& [steps, table] : tables) {
    text += (text.empty() ? "" : ", ") + std::to_string(steps);
  }
  return text;
}

// Python puts LoRAs to work that a prompt names; here they must be in the weights already.
void refuse_tags(const std::string& prompt) {
  for (const char* tag : {"<lora:", "<lyco:"}) {
    const size_t at = prompt.find(tag);
    require(at == std::string::npos || prompt.find('>', at) == std::string::npos,
            ErrorKind::invalid_argument, "[generate] ", tag,
            "…> in a prompt is for Python: put the LoRA to work there before the model is "
            "exported, and leave the tag out");
  }
}

}  // namespace

// One request, checked and with every default filled in.
struct ImagePipeline::Job {
  int64_t count;
  int64_t height, width;                // of latents
  int64_t wanted_height, wanted_width;  // of the picture, which may be cut to it
  float guidance_scale;
  const StepTable* table;
  std::vector<uint64_t> seeds;

  bool guided;  // asked about the negative prompt too
};

// What the denoiser is told at every step of images that it is asked about at once: `sides` times
// those of the request.
struct ImagePipeline::Batch {
  int64_t sides = 0;
  std::map<std::string, FloatArray> inputs;
};

ImagePipeline::ImagePipeline(Networks networks, PipelineSettings settings)
    : networks_(std::move(networks)),
      settings_(std::move(settings)),
      text_encoders_(networks_.text, settings_.text),
      told_(told_inputs(networks_.denoiser->graph())) {
  const bool tells_scale = std::count(told_.begin(), told_.end(), "timestep_cond") > 0;
  require(tells_scale == (settings_.guidance_embedding > 0), ErrorKind::checkpoint,
          "[model] sdcore.denoiser.guidance_embedding is ", settings_.guidance_embedding,
          ", which does not fit the inputs of the ", settings_.denoiser);
}

int64_t ImagePipeline::side(std::optional<int64_t> wanted, int64_t otherwise,
                            const char* name) const {
  const int64_t multiple = settings_.size.multiple, largest = settings_.size.largest;
  const int64_t value = wanted.value_or(otherwise);
  require(value >= multiple && value % multiple == 0 && value <= largest,
          ErrorKind::invalid_argument, "[generate] ", name, " must be a multiple of ", multiple,
          " and at most ", largest, ", got ", value, "; try ",
          std::clamp(value / multiple * multiple, multiple, largest));
  return value;
}

// Of all sizes of the training that of nearest shape.
TrainedSize ImagePipeline::drawn_size(int64_t width, int64_t height) const {
  const auto& trained = settings_.size.trained;
  if (trained.empty()) return {0, width, height};
  const double shape = static_cast<double>(height) / static_cast<double>(width);
  return *std::min_element(trained.begin(), trained.end(),
                           [shape](const TrainedSize& a, const TrainedSize& b) {
                             return std::abs(a.shape - shape) < std::abs(b.shape - shape);
                           });
}

ImagePipeline::Job ImagePipeline::check(const ImageRequest& request) const {
  const PipelineDefaults& defaults = settings_.defaults;
  Job job{};
  job.count = request.count;
  require(job.count >= 1 && job.count <= kMaxCount, ErrorKind::invalid_argument,
          "[generate] count must be between 1 and ", kMaxCount, ", got ", job.count);
  job.wanted_width = side(request.width, defaults.width, "width");
  job.wanted_height = side(request.height, defaults.height, "height");
  const TrainedSize drawn = drawn_size(job.wanted_width, job.wanted_height);
  job.width = drawn.width / settings_.latent.pixels;
  job.height = drawn.height / settings_.latent.pixels;
  const int64_t steps = request.steps.value_or(defaults.steps);
  require(steps >= 1, ErrorKind::invalid_argument, "[generate] steps must be at least 1, got ",
          steps);
  const auto table = settings_.tables.find(steps);
  require(table != settings_.tables.end(), ErrorKind::invalid_argument,
          "[generate] the model was exported for ", listed(settings_.tables), " steps, got ", steps,
          "; export it for that number too");
  job.table = &table->second;
  job.guidance_scale = request.guidance_scale.value_or(defaults.guidance_scale);
  require(std::isfinite(job.guidance_scale), ErrorKind::invalid_argument,
          "[generate] guidance_scale must be a number, got ", job.guidance_scale);
  // A model that is told the scale is asked once.
  job.guided = job.guidance_scale > 1.0f && settings_.guidance_embedding == 0;
  const int64_t seed = request.seed ? *request.seed : int64_t{std::random_device()()};
  require(seed >= 0, ErrorKind::invalid_argument, "[generate] seed must be at least 0, got ", seed);
  for (int64_t i = 0; i < job.count; ++i) job.seeds.push_back(static_cast<uint64_t>(seed) + i);
  return job;
}

// The negative prompt's side and the prompt's; in one batch, if they are of one length.
std::vector<ImagePipeline::Batch> ImagePipeline::describe(const ImageRequest& request,
                                                          const Job& job) const {
  refuse_tags(request.prompt);
  std::vector<std::string> texts;
  if (job.guided) texts.push_back(request.negative_prompt.value_or(""));
  texts.push_back(request.prompt);
  std::vector<TextStates> states = text_encoders_.encode(texts);
  if (job.guided && !request.negative_prompt && settings_.text.zeros_for_none) {
    states[0] = states[0].zeros();
  }
  std::vector<const TextStates*> sides;
  for (const TextStates& side : states) sides.push_back(&side);
  if (!job.guided || states[0].tokens == states[1].tokens) return {make_batch(job, sides)};
  return {make_batch(job, {sides[0]}), make_batch(job, {sides[1]})};
}

ImagePipeline::Batch ImagePipeline::make_batch(const Job& job,
                                               const std::vector<const TextStates*>& sides) const {
  Batch batch;
  batch.sides = static_cast<int64_t>(sides.size());
  const int64_t images = batch.sides * job.count;
  const auto add = [&](const std::string& name, Shape shape, const std::vector<float>& row) {
    FloatArray& input = batch.inputs[name];
    input.shape = std::move(shape);
    for (int64_t i = 0; i < job.count; ++i) {
      input.values.insert(input.values.end(), row.begin(), row.end());
    }
  };
  for (const TextStates* side : sides) {
    add("encoder_hidden_states", {images, side->tokens, side->channels}, side->hidden);
    const Facts facts{*side, job.height * settings_.latent.pixels,
                      job.width * settings_.latent.pixels, job.guidance_scale,
                      settings_.guidance_embedding};
    for (const std::string& name : told_) {
      const std::vector<float> row = told(name, facts);
      require(!row.empty(), ErrorKind::unsupported_model, "[generate] the ", settings_.denoiser,
              " asks for ", name, ", which the text encoders do not give");
      add(name, {images, static_cast<int64_t>(row.size())}, row);
    }
  }
  return batch;
}

// Each image's next numbers from its own generator, in the order [channel, y, x] that diffusers
// draws them in, laid down channels-last.
void ImagePipeline::draw(std::vector<TorchRandom>& noise, const Job& job, float* latents) const {
  const int64_t pixels = job.height * job.width, channels = settings_.latent.channels;
  std::vector<float> planes(static_cast<size_t>(pixels * channels));
  for (TorchRandom& generator : noise) {
    generator.normal(planes.data(), pixels * channels);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < pixels; ++i) latents[i * channels + c] = planes[c * pixels + i];
    }
    latents += pixels * channels;
  }
}

// The output of the denoiser for all images of a batch.
std::vector<float> ImagePipeline::ask(const Job& job, const Batch& batch, const StepRow& row,
                                      const std::vector<float>& latents) const {
  const size_t n = latents.size();
  std::vector<float> x(n * static_cast<size_t>(batch.sides));
  for (size_t i = 0; i < x.size(); ++i) x[i] = latents[i % n] * row.input_scale;
  const int64_t images = batch.sides * job.count;
  const std::vector<float> timesteps(static_cast<size_t>(images), row.timestep);
  const Shape shape{images, job.height, job.width, settings_.latent.channels};
  NetworkInputs inputs;
  inputs.add("sample", shape, x.data());
  inputs.add("timestep", {images}, timesteps.data());
  for (const auto& [name, input] : batch.inputs) inputs.add(name, input.shape, input.values.data());
  FloatArray out = run_to(*networks_.denoiser, inputs, settings_.denoiser);
  drop_variance(out, settings_.latent.channels);
  require_shape(out, shape, settings_.denoiser);
  return std::move(out.values);
}

// Guided, where the negative prompt is asked about.
std::vector<float> ImagePipeline::predict(const Job& job, const std::vector<Batch>& batches,
                                          const StepRow& row,
                                          const std::vector<float>& latents) const {
  std::vector<float> out;
  for (const Batch& batch : batches) {
    const std::vector<float> more = ask(job, batch, row, latents);
    out.insert(out.end(), more.begin(), more.end());
  }
  if (!job.guided) return out;
  const size_t n = latents.size();
  guide(out.data(), out.data() + n, job.guidance_scale, static_cast<int64_t>(n), out.data());
  out.resize(n);
  return out;
}

FloatArray ImagePipeline::sample(const ImageRequest& request, const Job& job) const {
  FloatArray latents{{job.count, job.height, job.width, settings_.latent.channels}, {}};
  std::vector<float>& x = latents.values;
  x.resize(static_cast<size_t>(element_count(latents.shape)));
  std::vector<TorchRandom> noise(job.seeds.begin(), job.seeds.end());
  draw(noise, job, x.data());
  for (float& value : x) value *= job.table->init_noise_sigma;

  const std::vector<Batch> batches = describe(request, job);
  Sampler sampler(*job.table);
  std::vector<float> z(x.size());
  const auto total = static_cast<int64_t>(job.table->rows.size());
  for (int64_t i = 0; i < total; ++i) {
    const StepRow& row = job.table->rows[static_cast<size_t>(i)];
    const std::vector<float> out = predict(job, batches, row, x);
    if (row.draws) draw(noise, job, z.data());
    sampler.step(i, x.data(), out.data(), z.data(), static_cast<int64_t>(x.size()), job.count,
                 x.data());
    require(!request.on_step || request.on_step(i + 1, total), ErrorKind::cancelled,
            "[generate] stopped by the caller after step ", i + 1, " of ", total);
  }
  return latents;
}

std::vector<uint8_t> ImagePipeline::decode(const Job& job, const float* latents) const {
  const LatentSpace& space = settings_.latent;
  const Shape shape{1, job.height, job.width, space.channels};
  std::vector<float> unscaled(static_cast<size_t>(element_count(shape)));
  const auto channels = static_cast<size_t>(space.channels);
  for (size_t i = 0; i < unscaled.size(); ++i) {
    unscaled[i] = latents[i] / space.scale[i % channels] + space.shift[i % channels];
  }
  NetworkInputs inputs;
  inputs.add("latents", shape, unscaled.data());
  FloatArray image = run_to(*networks_.vae_decoder, inputs, "vae_decoder");
  Picture picture{job.width * space.pixels, job.height * space.pixels, std::move(image.values)};
  require_shape(image, {1, picture.height, picture.width, 3}, "vae_decoder");
  std::transform(picture.pixels.begin(), picture.pixels.end(), picture.pixels.begin(),
                 [](float sample) { return to_level(sample / 2.0f + 0.5f); });
  if (picture.width != job.wanted_width || picture.height != job.wanted_height) {
    picture = cut_to(picture, job.wanted_width, job.wanted_height);
  }
  std::vector<uint8_t> bytes(picture.pixels.size());
  std::transform(picture.pixels.begin(), picture.pixels.end(), bytes.begin(),
                 [](float level) { return to_byte(to_level(level)); });
  return bytes;
}

Images ImagePipeline::generate(const ImageRequest& request) const {
  Job job = check(request);
  const FloatArray latents = sample(request, job);
  networks_.denoiser->release_mapped();  // the decoder's results are large
  Images images;
  images.width = job.wanted_width;
  images.height = job.wanted_height;
  const size_t size = latents.values.size() / static_cast<size_t>(job.count);
  // One at a time keeps memory low.
  for (size_t i = 0; i < job.seeds.size(); ++i) {
    images.pixels.push_back(decode(job, latents.values.data() + i * size));
  }
  images.seeds = std::move(job.seeds);
  return images;
}

}  // namespace sdcore
