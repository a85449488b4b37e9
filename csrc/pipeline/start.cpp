#include "pipeline/start.h"

namespace sdcore {
namespace {

std::vector<float> from_noise(std::vector<float> noise, const Schedule& schedule) {
  for (float& value : noise) value *= schedule.table.init_noise_sigma;
  return noise;
}

float noisy(float picture, float noise, const NoiseLevel& level) {
  return level.picture * picture + level.noise * noise;
}

// A picture's latents as they stand at the first row.
std::vector<float> from_picture(const std::vector<float>& picture, const std::vector<float>& noise,
                                const Schedule& schedule) {
  std::vector<float> latents(picture.size());
  for (size_t i = 0; i < latents.size(); ++i) {
    latents[i] = noisy(picture[i], noise[i], schedule.levels[0]);
  }
  return latents;
}

// A mask [height, width] in the latents' size: the first pixel of each.
std::vector<float> shrunk(const std::vector<float>& mask, int64_t width, int64_t height,
                          int64_t pixels) {
  std::vector<float> small;
  for (int64_t y = 0; y < height; y += pixels) {
    for (int64_t x = 0; x < width; x += pixels) small.push_back(mask[y * width + x]);
  }
  return small;
}

// Each pixel of `mask` [h, w] before the channels of `latents` [images, h, w, channels].
std::vector<float> put_before(const std::vector<float>& mask, const std::vector<float>& latents,
                              int64_t channels) {
  std::vector<float> both;
  both.reserve(latents.size() + latents.size() / static_cast<size_t>(channels));
  for (auto pixel = latents.begin(); pixel != latents.end();) {
    for (const float covered : mask) {
      both.push_back(covered);
      both.insert(both.end(), pixel, pixel + channels);
      pixel += channels;
    }
  }
  return both;
}

}  // namespace

void Kept::restore(std::vector<float>& latents, int64_t channels, const NoiseLevel* level) const {
  for (size_t i = 0; i < latents.size(); ++i) {
    const float m = mask[i / static_cast<size_t>(channels) % mask.size()];
    const float kept = level ? noisy(picture[i], noise[i], *level) : picture[i];
    latents[i] = (1 - m) * kept + m * latents[i];
  }
}

Start begin(const Vae& vae, const std::optional<Given>& given, const Schedule& schedule,
            Noise& noise, const Observer& observer) {
  if (!given) return {from_noise(noise.draw(), schedule), {}, {}};
  std::vector<float> picture = vae.encode(given->picture, noise, observer);
  std::vector<float> fresh = noise.draw();
  if (!given->mask) return {from_picture(picture, fresh, schedule), {}, {}};
  noise.draw();  // diffusers encodes the masked picture too, used or not
  const bool whole = given->strength == 1;
  std::vector<float> latents =
      whole ? from_noise(fresh, schedule) : from_picture(picture, fresh, schedule);
  std::vector<float> mask =
      shrunk(*given->mask, given->picture.width, given->picture.height, vae.space().pixels);
  return {std::move(latents), Kept{std::move(picture), std::move(fresh), std::move(mask)}, {}};
}

Start begin_inpainting(const Vae& vae, const std::optional<Given>& given, const Schedule& schedule,
                       Noise& noise, int64_t width, int64_t height, const Observer& observer) {
  const auto size = static_cast<size_t>(width * height);
  Picture around = given ? given->picture : Picture{width, height, std::vector<float>(3 * size)};
  const std::vector<float> mask =
      given && given->mask ? *given->mask : std::vector<float>(size, 1.0f);
  std::vector<float> picture;
  if (given && given->strength < 1) picture = vae.encode(around, noise, observer);
  std::vector<float> fresh = noise.draw();
  for (size_t i = 0; i < around.pixels.size(); ++i) {
    around.pixels[i] *= mask[i / 3] < 0.5f ? 1.0f : 0.0f;
  }
  const int64_t channels = vae.space().channels;
  std::vector<float> beside = put_before(shrunk(mask, width, height, vae.space().pixels),
                                         vae.encode(around, noise, observer), channels);
  return {picture.empty() ? from_noise(std::move(fresh), schedule)
                          : from_picture(picture, fresh, schedule),
          {},
          std::move(beside),
          1 + channels};
}

}  // namespace sdcore
