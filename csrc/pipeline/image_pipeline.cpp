#include "pipeline/image_pipeline.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "pipeline/finite.h"
#include "pipeline/picture_cut.h"
#include "pipeline/told.h"
#include "sampler/sampler.h"

namespace sdcore {
namespace {

constexpr int64_t kMaxCount = 1024;  // beyond it a typo is likelier than a wish

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

uint8_t to_byte(float value) {
  const float level = std::min(std::max(0.0f, value), 1.0f);    // 0 for no number
  return static_cast<uint8_t>(std::nearbyint(level * 255.0f));  // half to even, as NumPy rounds
}

std::string listed(const std::map<int64_t, Schedules>& all) {
  std::string text;
  for (const auto& [steps, schedules] : all) {
    text += (text.empty() ? "" : ", ") + std::to_string(steps);
  }
  return text;
}

void require_pixels(const PictureBytes& picture, const char* name) {
  require(picture.width >= 1 && picture.height >= 1, ErrorKind::invalid_argument, "[generate] ",
          name, " must have pixels, got ", picture.width, " x ", picture.height);
}

void check_picture(const ImageRequest& request) {
  require(request.strength >= 0 && request.strength <= 1, ErrorKind::invalid_argument,
          "[generate] strength must be from 0 and at most 1, got ", request.strength);
  if (request.image) require_pixels(*request.image, "image");
  if (!request.mask) return;
  require_pixels(*request.mask, "mask");
  require(request.image.has_value(), ErrorKind::invalid_argument,
          "[generate] there is a mask without an image to keep the rest of");
  const auto &image = *request.image, &mask = *request.mask;
  require(mask.width == image.width && mask.height == image.height, ErrorKind::invalid_argument,
          "[generate] the mask must have the size of the image, ", image.width, " x ", image.height,
          ", got ", mask.width, " x ", mask.height);
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
  Schedule schedule;
  std::vector<uint64_t> seeds;
  std::optional<Given> given;
  Observer observer;  // of its networks' runs

  bool guided;  // asked about the negative prompt too
};

// What the denoiser is told at every step of images that it is asked about at once: `sides` times
// those of the request.
struct ImagePipeline::Batch {
  int64_t sides = 0;
  std::unique_ptr<Steady> told;
};

ImagePipeline::ImagePipeline(Networks networks, PipelineSettings settings)
    : networks_(std::move(networks)),
      settings_(std::move(settings)),
      vae_(networks_.vae, settings_.latent),
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

void ImagePipeline::check_size(const ImageRequest& request, Job& job) const {
  int64_t width = settings_.defaults.width, height = settings_.defaults.height;
  if (request.image && !request.width && !request.height) {
    const int64_t multiple = settings_.size.multiple;
    width = std::max(request.image->width / multiple * multiple, multiple);
    height = std::max(request.image->height / multiple * multiple, multiple);
  }
  job.wanted_width = side(request.width, width, "width");
  job.wanted_height = side(request.height, height, "height");
  const TrainedSize drawn = drawn_size(job.wanted_width, job.wanted_height);
  job.width = drawn.width / settings_.latent.pixels;
  job.height = drawn.height / settings_.latent.pixels;
}

// Of the steps that are asked for, what a run makes.
Schedule ImagePipeline::schedule(const ImageRequest& request) const {
  const int64_t steps = request.steps.value_or(settings_.defaults.steps);
  require(steps >= 1, ErrorKind::invalid_argument, "[generate] steps must be at least 1, got ",
          steps);
  const auto found = settings_.schedules.find(steps);
  require(found != settings_.schedules.end(), ErrorKind::invalid_argument,
          "[generate] the model was exported for ", listed(settings_.schedules), " steps, got ",
          steps, "; export it for that number too");
  const Schedules& schedules = found->second;
  return request.image ? schedules.from_picture(request.strength) : schedules.whole();
}

// The picture to begin from, in the size that is drawn.
std::optional<Given> ImagePipeline::given(const ImageRequest& request, const Job& job) const {
  if (!request.image) return {};
  const int64_t width = job.width * settings_.latent.pixels;
  const int64_t height = job.height * settings_.latent.pixels;
  Given given{fitted(*request.image, width, height), {}, request.strength};
  if (request.mask) given.mask = fitted_mask(*request.mask, width, height);
  return given;
}

ImagePipeline::Job ImagePipeline::check(const ImageRequest& request) const {
  Job job{};
  job.count = request.count;
  require(job.count >= 1 && job.count <= kMaxCount, ErrorKind::invalid_argument,
          "[generate] count must be between 1 and ", kMaxCount, ", got ", job.count);
  check_picture(request);
  check_size(request, job);
  job.schedule = schedule(request);
  job.guidance_scale = request.guidance_scale.value_or(settings_.defaults.guidance_scale);
  require(std::isfinite(job.guidance_scale), ErrorKind::invalid_argument,
          "[generate] guidance_scale must be a number, got ", job.guidance_scale);
  // A model that is told the scale is asked once.
  job.guided = job.guidance_scale > 1.0f && settings_.guidance_embedding == 0;
  const int64_t seed = request.seed ? *request.seed : int64_t{std::random_device()()};
  require(seed >= 0, ErrorKind::invalid_argument, "[generate] seed must be at least 0, got ", seed);
  for (int64_t i = 0; i < job.count; ++i) job.seeds.push_back(static_cast<uint64_t>(seed) + i);
  job.given = given(request, job);
  if (request.should_stop) {
    job.observer.before_step = [asked = request.should_stop] {
      require(!asked(), ErrorKind::cancelled, "[generate] stopped by the caller");
    };
  }
  return job;
}

// The negative prompt's side and the prompt's; in one batch, if they are of one length.
std::vector<ImagePipeline::Batch> ImagePipeline::describe(const ImageRequest& request,
                                                          const Job& job) const {
  refuse_tags(request.prompt);
  std::vector<std::string> texts;
  if (job.guided) texts.push_back(request.negative_prompt.value_or(""));
  texts.push_back(request.prompt);
  std::vector<TextStates> states = text_encoders_.encode(texts, job.observer);
  if (job.guided && !request.negative_prompt && settings_.text.zeros_for_none) {
    states[0] = states[0].zeros();
  }
  std::vector<const TextStates*> sides;
  for (const TextStates& side : states) sides.push_back(&side);
  std::vector<Batch> batches;
  if (!job.guided || states[0].tokens == states[1].tokens) {
    batches.push_back(make_batch(job, sides));
  } else {
    for (const TextStates* side : sides) batches.push_back(make_batch(job, {side}));
  }
  return batches;
}

ImagePipeline::Batch ImagePipeline::make_batch(const Job& job,
                                               const std::vector<const TextStates*>& sides) const {
  Batch batch;
  batch.sides = static_cast<int64_t>(sides.size());
  const int64_t images = batch.sides * job.count;
  std::map<std::string, FloatArray> inputs;
  const auto add = [&](const std::string& name, Shape shape, const std::vector<float>& row) {
    FloatArray& input = inputs[name];
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
  batch.told = make_steady(inputs);
  return batch;
}

Start ImagePipeline::start(const Job& job, Noise& noise) const {
  if (!settings_.inpaints) return begin(vae_, job.given, job.schedule, noise, job.observer);
  const int64_t pixels = settings_.latent.pixels;
  return begin_inpainting(vae_, job.given, job.schedule, noise, job.width * pixels,
                          job.height * pixels, job.observer);
}

// The latents for each side of a batch, with what the denoiser sees after them.
std::vector<float> ImagePipeline::scaled(const Batch& batch, float scale,
                                         const std::vector<float>& latents,
                                         const Start& start) const {
  std::vector<float> x;
  x.reserve(static_cast<size_t>(batch.sides) * (latents.size() + start.beside.size()));
  for (int64_t side = 0; side < batch.sides; ++side) {
    auto beside = start.beside.begin();
    for (size_t i = 0; i < latents.size(); ++i) {
      x.push_back(latents[i] * scale);
      if (start.further == 0 || (i + 1) % static_cast<size_t>(settings_.latent.channels)) continue;
      x.insert(x.end(), beside, beside + start.further);
      beside += start.further;
    }
  }
  return x;
}

// The output of the denoiser for all images of a batch.
std::vector<float> ImagePipeline::ask(const Job& job, const Batch& batch, const StepRow& row,
                                      const std::vector<float>& latents, const Start& start) const {
  const int64_t images = batch.sides * job.count, channels = settings_.latent.channels;
  const std::vector<float> x = scaled(batch, row.input_scale, latents, start);
  const std::vector<float> timesteps(static_cast<size_t>(images), row.timestep);
  NetworkInputs inputs;
  inputs.add("sample", {images, job.height, job.width, channels + start.further}, x.data());
  inputs.add("timestep", {images}, timesteps.data());
  FloatArray out =
      run_to(*networks_.denoiser, inputs, settings_.denoiser, job.observer, batch.told.get());
  drop_variance(out, channels);
  require_shape(out, {images, job.height, job.width, channels}, settings_.denoiser);
  return std::move(out.values);
}

// Guided, where the negative prompt is asked about.
std::vector<float> ImagePipeline::predict(const Job& job, const std::vector<Batch>& batches,
                                          const StepRow& row, const std::vector<float>& latents,
                                          const Start& start) const {
  std::vector<float> out;
  for (const Batch& batch : batches) {
    const std::vector<float> more = ask(job, batch, row, latents, start);
    out.insert(out.end(), more.begin(), more.end());
  }
  if (!job.guided) return out;
  const size_t n = latents.size();
  guide(out.data(), out.data() + n, job.guidance_scale, static_cast<int64_t>(n), out.data());
  out.resize(n);
  return out;
}

// Latents [images, h, w, channels].
std::vector<float> ImagePipeline::sample(const ImageRequest& request, const Job& job) const {
  const int64_t channels = settings_.latent.channels;
  Noise noise(job.seeds, job.height, job.width, channels);
  const Start start = this->start(job, noise);
  const std::vector<Batch> batches = describe(request, job);
  std::vector<float> x = start.latents, z;
  const auto& [table, levels] = job.schedule;
  Sampler sampler(table);
  const size_t total = table.rows.size();
  for (size_t i = 0; i < total; ++i) {
    const StepRow& row = table.rows[i];
    const std::vector<float> out = predict(job, batches, row, x, start);
    if (row.draws) z = noise.draw();
    sampler.step(static_cast<int64_t>(i), x.data(), out.data(), row.draws ? z.data() : nullptr,
                 static_cast<int64_t>(x.size()), job.count, x.data());
    require_finite(x, "what step ", i + 1, " of ", total, " made");
    if (start.kept) start.kept->restore(x, channels, i + 1 < total ? &levels[i + 1] : nullptr);
    const auto done = static_cast<int64_t>(i + 1);
    require(!request.on_step || request.on_step(done, static_cast<int64_t>(total)),
            ErrorKind::cancelled, "[generate] stopped by the caller after step ", done, " of ",
            total);
  }
  return x;
}

std::vector<uint8_t> ImagePipeline::finish(const Job& job, const float* latents) const {
  Picture picture = vae_.decode(latents, job.height, job.width, job.observer);
  if (picture.width != job.wanted_width || picture.height != job.wanted_height) {
    picture = cut_to(picture, job.wanted_width, job.wanted_height);
  }
  std::vector<uint8_t> bytes(picture.pixels.size());
  std::transform(picture.pixels.begin(), picture.pixels.end(), bytes.begin(), to_byte);
  return bytes;
}

Images ImagePipeline::generate(const ImageRequest& request) const {
  Job job = check(request);
  const std::vector<float> latents = sample(request, job);
  networks_.denoiser->release_mapped();  // the decoder's results are large
  Images images;
  images.width = job.wanted_width;
  images.height = job.wanted_height;
  const size_t size = latents.size() / static_cast<size_t>(job.count);
  // One at a time keeps memory low.
  for (size_t i = 0; i < job.seeds.size(); ++i) {
    images.pixels.push_back(finish(job, latents.data() + i * size));
  }
  images.seeds = std::move(job.seeds);
  return images;
}

}  // namespace sdcore
