// What an exported file says about its pipeline beside the networks, in the GGUF metadata.
//
//   sdcore.pipeline.version               u32, 3
//   sdcore.latent.channels, .pixels       u32: channels of a latent, pixels along its side
//   sdcore.latent.scale, .shift           f32 arrays: the VAE decodes latent / scale + shift, each
//                                         channel with its own or all with one
//   sdcore.default.width, .height         u32
//   sdcore.default.steps                  u32
//   sdcore.default.guidance_scale         f32
//   sdcore.default.dtype                  string: "auto", "f32" or "bf16"
//   sdcore.text.encoders                  strings: networks whose states of a prompt lie side by
//   side sdcore.text.<network>.tokens          u32: ids that it takes sdcore.text.<network>.padding
//   u32: the id of what is left of them sdcore.text.<network>.end             u32: the id at which
//   it pools; absent: the highest one sdcore.text.zeros_for_none            bool: whether no
//   negative prompt is zeros, not a text sdcore.unet.time_ids                  bool: whether it is
//   told height, width, 0, 0, height and
//                                         width of a picture
//   sdcore.unet.guidance_embedding        u32: channels in which it is told the guidance scale; 0:
//                                         it is not told, but guided
//   sdcore.table.<steps>.init_noise_sigma f32
//   sdcore.table.<steps>.terms            u32: terms in every row
//   sdcore.table.<steps>.rows             f32 array, row after row: timestep, input_scale,
//                                         x0_from_x, x0_from_m, clip, quantile, noise, draws (0 or
//                                         1), then x, x0, m, z of each term; zero terms at the end
//                                         of a row are none
//   tokenizer.ggml.*                      the vocabulary of all text encoders
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gguf/format.h"
#include "sampler/step_table.h"
#include "text/prompt_rows.h"

namespace sdcore {

struct LatentSpace {
  int64_t channels = 0, pixels = 0;
  std::vector<float> scale, shift;  // by channel
};

struct TextEncoderSettings {
  static constexpr int32_t kHighest = -1;

  std::string network;
  std::shared_ptr<const ClipTokenizer> tokenizer;
  int64_t tokens = 0;
  int32_t padding = 0;
  int32_t end = kHighest;  // the id at which it pools
};

struct TextSettings {
  std::vector<TextEncoderSettings> encoders;
  bool zeros_for_none = false;
};

struct PipelineDefaults {
  int64_t width = 0, height = 0, steps = 0;
  float guidance_scale = 0;
};

struct PipelineSettings {
  LatentSpace latent;
  PipelineDefaults defaults;
  TextSettings text;
  bool time_ids = false;
  int64_t guidance_embedding = 0;
  std::map<int64_t, StepTable> tables;  // by number of steps
};

// True when the file was written as a pipeline, not as networks alone.
bool has_pipeline(const gguf::Metadata& metadata);

// "auto" where the file does not say.
std::string default_dtype(const gguf::Metadata& metadata);

// Throws Error(checkpoint) naming the key that is missing or makes no sense, and
// Error(unsupported_model) for a version that this build does not know.
PipelineSettings read_settings(const gguf::Metadata& metadata);

}  // namespace sdcore
