// Prompt to pictures: tokenizer, text encoder, sampler with guidance, VAE. The arithmetic is that
// of python/sdcore/pipelines/pipeline.py in the same order, so the pictures are equal bit for bit.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/text_encoders.h"
#include "sampler/torch_random.h"

namespace sdcore {

// What is absent is the model's own choice; an absent seed is drawn.
struct ImageRequest {
  std::string prompt;
  std::optional<std::string> negative_prompt;
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
class ImagePipeline {
 public:
  struct Networks {
    TextEncoders::Networks text;
    std::shared_ptr<Network> denoiser, vae_decoder;
  };

  // Throws Error(unsupported_model) when the denoiser asks for what no pipeline can tell it.
  ImagePipeline(Networks networks, PipelineSettings settings);

  const PipelineSettings& settings() const { return settings_; }

  // Throws Error(invalid_argument) for a request that cannot be met, Error(cancelled) when on_step
  // says so.
  Images generate(const ImageRequest& request) const;

 private:
  struct Job;
  struct Batch;

  Job check(const ImageRequest& request) const;
  int64_t side(std::optional<int64_t> wanted, int64_t otherwise, const char* name) const;
  TrainedSize drawn_size(int64_t width, int64_t height) const;
  std::vector<Batch> describe(const ImageRequest& request, const Job& job) const;
  Batch make_batch(const Job& job, const std::vector<const TextStates*>& sides) const;
  void draw(std::vector<TorchRandom>& noise, const Job& job, float* latents) const;
  FloatArray sample(const ImageRequest& request, const Job& job) const;
  std::vector<float> ask(const Job& job, const Batch& batch, const StepRow& row,
                         const std::vector<float>& latents) const;
  std::vector<float> predict(const Job& job, const std::vector<Batch>& batches, const StepRow& row,
                             const std::vector<float>& latents) const;
  std::vector<uint8_t> decode(const Job& job, const float* latents) const;

  Networks networks_;
  PipelineSettings settings_;
  TextEncoders text_encoders_;
  std::vector<std::string> told_;  // inputs of the denoiser; see told.h
};

}  // namespace sdcore
