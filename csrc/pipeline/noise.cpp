#include "pipeline/noise.h"

namespace sdcore {

std::vector<float> Noise::draw() {
  std::vector<float> all(size()), planes(static_cast<size_t>(pixels_ * channels_));
  float* latents = all.data();
  for (TorchRandom& generator : generators_) {
    generator.normal(planes.data(), pixels_ * channels_);
    for (int64_t c = 0; c < channels_; ++c) {
      for (int64_t i = 0; i < pixels_; ++i) latents[i * channels_ + c] = planes[c * pixels_ + i];
    }
    latents += pixels_ * channels_;
  }
  return all;
}

}  // namespace sdcore
