#include "pipeline/vae.h"

#include <algorithm>

#include "base/error.h"
#include "pipeline/finite.h"
#include "sampler/gaussian.h"

namespace sdcore {
namespace {

float to_level(float value) { return std::min(std::max(0.0f, value), 1.0f); }

}  // namespace

Vae::Vae(Networks networks, LatentSpace space)
    : networks_(std::move(networks)), space_(std::move(space)) {}

Picture Vae::decode(const float* latents, int64_t height, int64_t width,
                    const Observer& observer) const {
  const Shape shape{1, height, width, space_.channels};
  std::vector<float> unscaled(static_cast<size_t>(element_count(shape)));
  const auto channels = static_cast<size_t>(space_.channels);
  for (size_t i = 0; i < unscaled.size(); ++i) {
    unscaled[i] = latents[i] / space_.scale[i % channels] + space_.shift[i % channels];
  }
  NetworkInputs inputs;
  inputs.add("latents", shape, unscaled.data());
  FloatArray image = run_to(*networks_.decoder, inputs, "vae_decoder", observer);
  Picture picture{width * space_.pixels, height * space_.pixels, std::move(image.values)};
  require_shape(image, {1, picture.height, picture.width, 3}, "vae_decoder");
  require_finite(picture.pixels, "what the VAE made of the latents");
  std::transform(picture.pixels.begin(), picture.pixels.end(), picture.pixels.begin(),
                 [](float sample) { return to_level(sample / 2.0f + 0.5f); });
  return picture;
}

std::vector<float> Vae::encode(const Picture& picture, Noise& noise,
                               const Observer& observer) const {
  require(networks_.encoder != nullptr, ErrorKind::unsupported_model,
          "[generate] the file has no vae_encoder, by which a picture becomes latents: export the "
          "model again, or draw from text alone");
  NetworkInputs inputs;
  inputs.add("sample", {1, picture.height, picture.width, 3}, picture.pixels.data());
  const FloatArray moments = run_to(*networks_.encoder, inputs, "vae_encoder", observer);
  networks_.encoder->release_mapped();
  const auto channels = static_cast<size_t>(space_.channels);
  require_shape(
      moments,
      {1, picture.height / space_.pixels, picture.width / space_.pixels, 2 * space_.channels},
      "vae_encoder");

  const size_t n = moments.values.size() / 2;  // of a latent
  std::vector<float> means(n), log_variances(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t from = i / channels * 2 * channels + i % channels;
    means[i] = moments.values[from];
    log_variances[i] = moments.values[from + channels];
  }
  std::vector<float> latents = noise.draw();
  for (size_t at = 0; at < latents.size(); at += n) {
    float* image = latents.data() + at;
    draw_gaussian(means.data(), log_variances.data(), image, static_cast<int64_t>(n), image);
  }
  for (size_t i = 0; i < latents.size(); ++i) {
    latents[i] = (latents[i] - space_.shift[i % channels]) * space_.scale[i % channels];
  }
  return latents;
}

}  // namespace sdcore
