// Between latents and pictures, as decode and encode in python/sdcore/pipelines/pictures.py.
#pragma once

#include <memory>
#include <vector>

#include "pipeline/noise.h"
#include "pipeline/picture.h"
#include "pipeline/run_network.h"

namespace sdcore {

// The denoiser's latents are (those of the encoder - shift) * scale.
struct LatentSpace {
  int64_t channels = 0, pixels = 0;  // along a side of a latent
  std::vector<float> scale, shift;   // by channel
};

class Vae {
 public:
  struct Networks {
    std::shared_ptr<Network> decoder, encoder;  // null: there is no encoder
  };

  Vae(Networks networks, LatentSpace space);

  const LatentSpace& space() const { return space_; }

  // Latents [height, width, channels] to a picture in [0, 1].
  Picture decode(const float* latents, int64_t height, int64_t width,
                 const Observer& observer) const;

  // Latents [images, h, w, channels] of a picture in [-1, 1], drawn from what the encoder says of
  // it with each image's next numbers. Throws Error(unsupported_model) where there is no encoder.
  std::vector<float> encode(const Picture& picture, Noise& noise, const Observer& observer) const;

 private:
  Networks networks_;
  LatentSpace space_;
};

}  // namespace sdcore
