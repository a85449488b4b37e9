// Prompt to pictures, from noise or from a picture: tokenizer, text encoder, sampler with guidance,
// VAE. The arithmetic is that of python/sdcore/pipelines in the same order, so the
// pictures are equal bit for bit.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/picture_fit.h"
#include "pipeline/settings.h"
#include "pipeline/start.h"
#include "pipeline/text_encoders.h"
#include "pipeline/vae.h"

namespace sdcore {

// What is absent is the model's own choice; an absent seed is drawn. What is absent of the size is
// the picture's, where neither side is given.
struct ImageRequest {
  std::string prompt;
  std::optional<std::string> negative_prompt;
  std::optional<int64_t> width, height, steps, seed;
  std::optional<float> guidance_scale;
  int64_t count = 1;                        // image i uses seed + i
  std::optional<PictureBytes> image, mask;  // to begin from, and white where it is painted over
  double strength = 0.75;                   // share of the steps that are made from it
  // Called after each step with how many are done and how many there are; false stops the run.
  std::function<bool(int64_t done, int64_t total)> on_step;
  // Asked between the ops of a network on the processor; true stops the run.
  std::function<bool()> should_stop;
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
    std::shared_ptr<Network> denoiser;
    Vae::Networks vae;
  };

  // Throws Error(unsupported_model) when the denoiser asks for what no pipeline can tell it.
  ImagePipeline(Networks networks, PipelineSettings settings);

  const PipelineSettings& settings() const { return settings_; }

  // Throws Error(invalid_argument) for a request that cannot be met, Error(cancelled) when on_step
  // or should_stop say so.
  Images generate(const ImageRequest& request) const;

 private:
  struct Job;
  struct Batch;

  Job check(const ImageRequest& request) const;
  int64_t side(std::optional<int64_t> wanted, int64_t otherwise, const char* name) const;
  TrainedSize drawn_size(int64_t width, int64_t height) const;
  void check_size(const ImageRequest& request, Job& job) const;
  std::optional<Given> given(const ImageRequest& request, const Job& job) const;
  Schedule schedule(const ImageRequest& request) const;
  std::vector<Batch> describe(const ImageRequest& request, const Job& job) const;
  Batch make_batch(const Job& job, const std::vector<const TextStates*>& sides) const;
  Start start(const Job& job, Noise& noise) const;
  std::vector<float> sample(const ImageRequest& request, const Job& job) const;
  std::vector<float> scaled(const Batch& batch, float scale, const std::vector<float>& latents,
                            const Start& start) const;
  std::vector<float> ask(const Job& job, const Batch& batch, const StepRow& row,
                         const std::vector<float>& latents, const Start& start) const;
  std::vector<float> predict(const Job& job, const std::vector<Batch>& batches, const StepRow& row,
                             const std::vector<float>& latents, const Start& start) const;
  std::vector<uint8_t> finish(const Job& job, const float* latents) const;

  Networks networks_;
  PipelineSettings settings_;
  Vae vae_;
  TextEncoders text_encoders_;
  std::vector<std::string> told_;  // inputs of the denoiser; see told.h
};

}  // namespace sdcore
