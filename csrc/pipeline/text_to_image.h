// Prompt to pictures: tokenizer, text encoder, sampler with guidance, VAE. The arithmetic is that
// of python/sdcore/pipelines/pipeline.py in the same order, so the pictures are equal bit for bit.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/run_network.h"
#include "pipeline/settings.h"
#include "sampler/torch_random.h"

namespace sdcore {

// What is absent is the model's own choice; an absent seed is drawn.
struct ImageRequest {
  std::string prompt, negative_prompt;
  std::optional<int64_t> width, height, steps, seed;
  std::optional<float> guidance_scale;
  int64_t count = 1;  // image i uses seed + i
  // Called after each step with how many are done and how many there are; false stops the run.
  std::function<bool(int64_t done, int64_t total)> on_step;
};

struct Images {
  int64_t width = 0, height = 0;
  std::vector<std::vector<uint8_t>> pixels;  // an image: [height, width, 3]
  std::vector<uint64_t> seeds;
};

// Immutable, so safe to use from many threads: what changes belongs to a call of generate().
class TextToImage {
 public:
  struct Networks {
    std::shared_ptr<Network> text_encoder, unet, vae_decoder;
  };

  TextToImage(Networks networks, PipelineSettings settings);

  const PipelineSettings& settings() const { return settings_; }

  // Throws Error(invalid_argument) for a request that cannot be met, Error(cancelled) when on_step
  // says so.
  Images generate(const ImageRequest& request) const;

 private:
  struct Job;

  Job check(const ImageRequest& request) const;
  int64_t side(std::optional<int64_t> wanted, int64_t otherwise, const char* name) const;
  // Hidden states [texts, tokens, channels]; each text is encoded once.
  FloatArray encode(const std::vector<std::string>& texts) const;
  void draw(std::vector<TorchRandom>& noise, const Job& job, float* latents) const;
  FloatArray sample(const ImageRequest& request, const Job& job) const;
  std::vector<float> predict(const Job& job, const FloatArray& context, const StepRow& row,
                             const std::vector<float>& latents) const;
  std::vector<uint8_t> decode(const Job& job, const float* latents) const;

  Networks networks_;
  PipelineSettings settings_;
  ClipTokenizer tokenizer_;
};

}  // namespace sdcore
