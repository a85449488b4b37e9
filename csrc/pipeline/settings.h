// What an exported file says about its pipeline beside the networks, in the GGUF metadata.
//
//   sdcore.pipeline.version               u32, 2
//   sdcore.latent.channels, .pixels       u32: channels of a latent, pixels along its side
//   sdcore.latent.scale, .shift           f32: the VAE decodes latent / scale + shift
//   sdcore.default.width, .height         u32
//   sdcore.default.steps                  u32
//   sdcore.default.guidance_scale         f32
//   sdcore.default.dtype                  string: "auto", "f32" or "bf16"
//   sdcore.text.tokens                    u32: ids that the text encoder takes
//   sdcore.table.<steps>.init_noise_sigma f32
//   sdcore.table.<steps>.terms            u32: terms in every row
//   sdcore.table.<steps>.rows             f32 array, row after row: timestep, input_scale,
//                                         x0_from_x, x0_from_m, clip, quantile, noise, draws (0 or
//                                         1), then x, x0, m, z of each term; zero terms at the end
//                                         of a row are none
//   tokenizer.ggml.*                      the vocabulary
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "gguf/format.h"
#include "sampler/step_table.h"
#include "text/clip_bpe.h"

namespace sdcore {

struct LatentSpace {
  int64_t channels = 0, pixels = 0;
  float scale = 1, shift = 0;
};

struct PipelineDefaults {
  int64_t width = 0, height = 0, steps = 0;
  float guidance_scale = 0;
};

struct PipelineSettings {
  LatentSpace latent;
  PipelineDefaults defaults;
  int64_t text_tokens = 0;
  std::map<int64_t, StepTable> tables;  // by number of steps
  ClipVocabulary vocabulary;
};

// True when the file was written as a pipeline, not as networks alone.
bool has_pipeline(const gguf::Metadata& metadata);

// "auto" where the file does not say.
std::string default_dtype(const gguf::Metadata& metadata);

// Throws Error(checkpoint) naming the key that is missing or makes no sense, and
// Error(unsupported_model) for a version that this build does not know.
PipelineSettings read_settings(const gguf::Metadata& metadata);

}  // namespace sdcore
