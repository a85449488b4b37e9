#include "pipeline/text_to_image.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "sampler/sampler.h"

namespace sdcore {
namespace {

// Beyond these a typo is likelier than a wish.
constexpr int64_t kMaxSide = 8192;  // pixels
constexpr int64_t kMaxCount = 1024;

// The one output of a network, in the shape that the pipeline counts on.
std::vector<float> run_to(Network& network, const NetworkInputs& inputs, const char* name,
                          const Shape& expected) {
  auto outputs = run_network(network, inputs);
  require(outputs.size() == 1, ErrorKind::unsupported_model, "[generate] the ", name, " has ",
          outputs.size(), " outputs, and a pipeline takes one");
  FloatArray& out = outputs.begin()->second;
  require(out.shape == expected, ErrorKind::unsupported_model, "[generate] the ", name, " gives ",
          to_string(out.shape), " where the pipeline takes ", to_string(expected));
  return std::move(out.values);
}

uint8_t to_byte(float sample) {
  const float level = std::min(std::max(0.0f, sample / 2.0f + 0.5f), 1.0f);  // 0 for not a number
  return static_cast<uint8_t>(std::nearbyint(level * 255.0f));  // half to even, as NumPy rounds
}

std::string listed(const std::map<int64_t, StepTable>& tables) {
  std::string text;
  for (const auto& [steps, table] : tables) {
    text += (text.empty() ? "" : ", ") + std::to_string(steps);
  }
  return text;
}

}  // namespace

// One request, checked and with every default filled in.
struct TextToImage::Job {
  int64_t count, height, width;  // of latents
  float guidance_scale;
  const StepTable* table;
  std::vector<uint64_t> seeds;

  bool guided() const { return guidance_scale > 1.0f; }
};

TextToImage::TextToImage(Networks networks, PipelineSettings settings)
    : networks_(std::move(networks)),
      settings_(std::move(settings)),
      tokenizer_(settings_.vocabulary) {}

int64_t TextToImage::side(std::optional<int64_t> wanted, int64_t otherwise,
                          const char* name) const {
  const int64_t multiple = settings_.latent.pixels, value = wanted.value_or(otherwise);
  require(value >= multiple && value % multiple == 0 && value <= kMaxSide,
          ErrorKind::invalid_argument, "[generate] ", name, " must be a multiple of ", multiple,
          " and at most ", kMaxSide, ", got ", value, "; try ",
          std::clamp(value / multiple * multiple, multiple, kMaxSide));
  return value / multiple;
}

TextToImage::Job TextToImage::check(const ImageRequest& request) const {
  const PipelineDefaults& defaults = settings_.defaults;
  Job job{};
  job.count = request.count;
  require(job.count >= 1 && job.count <= kMaxCount, ErrorKind::invalid_argument,
          "[generate] count must be between 1 and ", kMaxCount, ", got ", job.count);
  job.width = side(request.width, defaults.width, "width");
  job.height = side(request.height, defaults.height, "height");
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
  const int64_t seed = request.seed ? *request.seed : int64_t{std::random_device()()};
  require(seed >= 0, ErrorKind::invalid_argument, "[generate] seed must be at least 0, got ", seed);
  for (int64_t i = 0; i < job.count; ++i) job.seeds.push_back(static_cast<uint64_t>(seed) + i);
  return job;
}

FloatArray TextToImage::encode(const std::vector<std::string>& texts) const {
  std::vector<std::string> unique;
  for (const std::string& text : texts) {
    if (std::find(unique.begin(), unique.end(), text) == unique.end()) unique.push_back(text);
  }
  std::vector<int32_t> ids;
  for (const std::string& text : unique) {
    const auto padded = tokenizer_.encode_padded(text, settings_.text_tokens);
    ids.insert(ids.end(), padded.begin(), padded.end());
  }
  const auto n = static_cast<int64_t>(unique.size());
  NetworkInputs inputs;
  inputs.add("input_ids", {n, settings_.text_tokens}, ids.data());
  auto outputs = run_network(*networks_.text_encoder, inputs);
  const auto states = outputs.find("last_hidden_state");
  require(
      states != outputs.end() && states->second.shape.size() == 3 && states->second.shape[0] == n,
      ErrorKind::unsupported_model, "[generate] the text_encoder gives no last_hidden_state ",
      "[n, tokens, channels]");
  FloatArray& from = states->second;
  FloatArray out{from.shape, {}};
  out.shape[0] = static_cast<int64_t>(texts.size());
  const auto size = static_cast<std::ptrdiff_t>(from.values.size()) / n;
  for (const std::string& text : texts) {
    const auto start = from.values.begin() +
                       (std::find(unique.begin(), unique.end(), text) - unique.begin()) * size;
    out.values.insert(out.values.end(), start, start + size);
  }
  return out;
}

// Each image's next numbers from its own generator, in the order [channel, y, x] that diffusers
// draws them in, laid down channels-last.
void TextToImage::draw(std::vector<TorchRandom>& noise, const Job& job, float* latents) const {
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

// The guided output of the UNet for the latents of all images.
std::vector<float> TextToImage::predict(const Job& job, const FloatArray& context,
                                        const StepRow& row,
                                        const std::vector<float>& latents) const {
  const size_t n = latents.size(), copies = job.guided() ? 2 : 1;
  std::vector<float> x(n * copies);
  for (size_t i = 0; i < x.size(); ++i) x[i] = latents[i % n] * row.input_scale;
  const int64_t batch = job.count * static_cast<int64_t>(copies);
  const std::vector<float> timesteps(static_cast<size_t>(batch), row.timestep);
  const Shape shape{batch, job.height, job.width, settings_.latent.channels};
  NetworkInputs inputs;
  inputs.add("sample", shape, x.data());
  inputs.add("timestep", {batch}, timesteps.data());
  inputs.add("encoder_hidden_states", context.shape, context.values.data());
  std::vector<float> out = run_to(*networks_.unet, inputs, "unet", shape);
  if (!job.guided()) return out;
  guide(out.data(), out.data() + n, job.guidance_scale, static_cast<int64_t>(n), out.data());
  out.resize(n);
  return out;
}

FloatArray TextToImage::sample(const ImageRequest& request, const Job& job) const {
  FloatArray latents{{job.count, job.height, job.width, settings_.latent.channels}, {}};
  std::vector<float>& x = latents.values;
  x.resize(static_cast<size_t>(element_count(latents.shape)));
  std::vector<TorchRandom> noise(job.seeds.begin(), job.seeds.end());
  draw(noise, job, x.data());
  for (float& value : x) value *= job.table->init_noise_sigma;

  std::vector<std::string> texts(job.guided() ? static_cast<size_t>(job.count) : 0,
                                 request.negative_prompt);
  texts.insert(texts.end(), static_cast<size_t>(job.count), request.prompt);
  const FloatArray context = encode(texts);

  Sampler sampler(*job.table);
  std::vector<float> z(x.size());
  const auto total = static_cast<int64_t>(job.table->rows.size());
  for (int64_t i = 0; i < total; ++i) {
    const StepRow& row = job.table->rows[static_cast<size_t>(i)];
    const std::vector<float> out = predict(job, context, row, x);
    if (row.draws) draw(noise, job, z.data());
    sampler.step(i, x.data(), out.data(), z.data(), static_cast<int64_t>(x.size()), job.count,
                 x.data());
    require(!request.on_step || request.on_step(i + 1, total), ErrorKind::cancelled,
            "[generate] stopped by the caller after step ", i + 1, " of ", total);
  }
  return latents;
}

std::vector<uint8_t> TextToImage::decode(const Job& job, const float* latents) const {
  const LatentSpace& space = settings_.latent;
  const Shape shape{1, job.height, job.width, space.channels};
  std::vector<float> unscaled(static_cast<size_t>(element_count(shape)));
  for (size_t i = 0; i < unscaled.size(); ++i) unscaled[i] = latents[i] / space.scale + space.shift;
  NetworkInputs inputs;
  inputs.add("latents", shape, unscaled.data());
  const std::vector<float> image =
      run_to(*networks_.vae_decoder, inputs, "vae_decoder",
             {1, job.height * space.pixels, job.width * space.pixels, 3});
  std::vector<uint8_t> bytes(image.size());
  std::transform(image.begin(), image.end(), bytes.begin(), to_byte);
  return bytes;
}

Images TextToImage::generate(const ImageRequest& request) const {
  Job job = check(request);
  const FloatArray latents = sample(request, job);
  networks_.unet->release_mapped();  // the decoder's results are large
  Images images;
  images.width = job.width * settings_.latent.pixels;
  images.height = job.height * settings_.latent.pixels;
  const size_t size = latents.values.size() / static_cast<size_t>(job.count);
  // One at a time keeps memory low.
  for (size_t i = 0; i < job.seeds.size(); ++i) {
    images.pixels.push_back(decode(job, latents.values.data() + i * size));
  }
  images.seeds = std::move(job.seeds);
  return images;
}

}  // namespace sdcore
