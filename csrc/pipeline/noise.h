// The random numbers of a request, as python/sdcore/pipelines/noise.py draws them.
#pragma once

#include <cstdint>
#include <vector>

#include "sampler/torch_random.h"

namespace sdcore {

// A generator an image, so a picture of a batch is the picture made alone.
class Noise {
 public:
  Noise(const std::vector<uint64_t>& seeds, int64_t height, int64_t width, int64_t channels)
      : generators_(seeds.begin(), seeds.end()), pixels_(height * width), channels_(channels) {}

  // Numbers of a draw.
  size_t size() const { return generators_.size() * static_cast<size_t>(pixels_ * channels_); }

  // Each image's next numbers [images, height, width, channels]; drawn, as diffusers does, channel
  // by channel.
  std::vector<float> draw();

 private:
  std::vector<TorchRandom> generators_;
  int64_t pixels_, channels_;
};

}  // namespace sdcore
