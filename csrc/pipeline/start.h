// What a run begins with: noise, or a picture and noise over it, as
// python/sdcore/pipelines/start.py has it and, for models that inpaint,
// families/stable_diffusion_inpaint.py.
#pragma once

#include <optional>
#include <vector>

#include "pipeline/schedules.h"
#include "pipeline/vae.h"

namespace sdcore {

// The picture that a request brings, in the size that is drawn.
struct Given {
  Picture picture;                         // in [-1, 1]
  std::optional<std::vector<float>> mask;  // [height, width]: 1 where to paint; absent: everywhere
  double strength = 1;
};

// Latents of a picture that is kept where `mask` [h, w] is 0, and the noise over them.
struct Kept {
  std::vector<float> picture, noise, mask;

  // `latents` [images, h, w, channels] at a level (null: at the end) with the kept part as the
  // picture has it.
  void restore(std::vector<float>& latents, int64_t channels, const NoiseLevel* level) const;
};

struct Start {
  std::vector<float> latents;  // [images, h, w, channels], at the level of the first row
  std::optional<Kept> kept;
  std::vector<float> beside;  // [images, h, w, further]: what the denoiser sees after them
  int64_t further = 0;
};

// Draws in the order that diffusers does: for the encoder, then for the first noise.
Start begin(const Vae& vae, const std::optional<Given>& given, const Schedule& schedule,
            Noise& noise, const Observer& observer);

// The same for a denoiser that sees a mask, and the latents of the picture without what it covers.
// With no picture or no mask everything is to be painted.
Start begin_inpainting(const Vae& vae, const std::optional<Given>& given, const Schedule& schedule,
                       Noise& noise, int64_t width, int64_t height, const Observer& observer);

}  // namespace sdcore
