// What an exported file says about its pipeline beside the networks, in the GGUF metadata.
//
//   sdcore.pipeline.version               u32, 5
//   sdcore.latent.channels, .pixels       u32: channels of a latent, pixels along its side
//   sdcore.latent.scale, .shift           f32 arrays: the VAE decodes latent / scale + shift, each
//                                         channel with its own or all with one
//   sdcore.default.width, .height         u32
//   sdcore.default.steps                  u32
//   sdcore.default.guidance_scale         f32
//   sdcore.default.dtype                  string: "auto", "f32" or "bf16"
//   sdcore.size.multiple, .largest        u32: what width and height are multiples of, and at most
//   sdcore.size.trained                   f64 array, size after size: shape (about height / width),
//                                         width, height. Pictures are drawn in the one of nearest
//                                         shape, and then cut; none: in the size that is wanted
//   sdcore.denoiser.network               string: the network that runs once a step; its inputs
//                                         say what it is told (csrc/pipeline/told.h)
//   sdcore.denoiser.guidance_embedding    u32: channels in which it is told the guidance scale; 0:
//                                         it is not told, but guided
//   sdcore.denoiser.inpaints              bool: whether it sees, after the latents, a mask, and the
//                                         latents of the picture without what is masked
//   sdcore.text.encoders                  strings: CLIPs whose states of a prompt lie side by side
//   sdcore.text.<network>.tokens          u32: ids that it takes
//   sdcore.text.<network>.padding         u32: the id of what is left of them
//   sdcore.text.<network>.end             u32: the id at which it pools; absent: the highest one
//   sdcore.text.<network>.token_type      i32 array: in place of the vocabulary's; absent: it is so
//   sdcore.text.zeros_for_none            bool: whether no negative prompt is zeros, not a text
//   sdcore.text.channels                  u32: channels to which zeros fill up those states; 0:
//                                         they are as they are
//   sdcore.captions.tokens                u32: tokens of T5, whose states follow; 0: there are none
//   sdcore.captions.network               string: T5; "": its states are zeros
//   sdcore.captions.masked                bool: whether what reads its tokens passes over padding
//   sdcore.captions.cleaned               bool: whether it reads captions that are cleaned
//                                         (csrc/text/caption_cleaning.h)
//   sdcore.table.<steps>.*                the steps: pipeline/schedules.h
//   tokenizer.ggml.*                      the vocabulary of all CLIPs, or of T5 alone
//   tokenizer_<n>.ggml.*                  that of T5, where it is text_encoder_<n>
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gguf/format.h"
#include "pipeline/schedules.h"
#include "pipeline/vae.h"
#include "text/caption_rows.h"

namespace sdcore {

struct TextEncoderSettings {
  static constexpr int32_t kHighest = -1;

  std::string network;
  std::shared_ptr<const ClipTokenizer> tokenizer;
  int64_t tokens = 0;
  int32_t padding = 0;
  int32_t end = kHighest;  // the id at which it pools
};

struct CaptionSettings {
  int64_t tokens = 0;
  std::string network;  // empty: zeros in place of its states
  std::shared_ptr<const UnigramTokenizer> tokenizer;
  bool masked = false, cleaned = false;
};

struct TextSettings {
  std::vector<TextEncoderSettings> encoders;
  int64_t channels = 0;  // of their states and zeros; 0: of them alone
  CaptionSettings captions;
  bool zeros_for_none = false;
};

struct TrainedSize {
  double shape = 0;
  int64_t width = 0, height = 0;
};

struct SizeSettings {
  int64_t multiple = 1, largest = 0;
  std::vector<TrainedSize> trained;
};

struct PipelineDefaults {
  int64_t width = 0, height = 0, steps = 0;
  float guidance_scale = 0;
};

struct PipelineSettings {
  LatentSpace latent;
  PipelineDefaults defaults;
  SizeSettings size;
  TextSettings text;
  std::string denoiser;
  int64_t guidance_embedding = 0;
  bool inpaints = false;
  std::map<int64_t, Schedules> schedules;  // by number of steps
};

// True when the file was written as a pipeline, not as networks alone.
bool has_pipeline(const gguf::Metadata& metadata);

// "auto" where the file does not say.
std::string default_dtype(const gguf::Metadata& metadata);

// Throws Error(checkpoint) naming the key that is missing or makes no sense, and
// Error(unsupported_model) for a version that this build does not know.
PipelineSettings read_settings(const gguf::Metadata& metadata);

}  // namespace sdcore
