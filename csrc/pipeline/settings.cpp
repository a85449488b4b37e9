#include "pipeline/settings.h"

#include <cmath>
#include <string_view>

#include "base/error.h"
#include "pipeline/metadata.h"

namespace sdcore {
namespace {

using metadata::get;
using metadata::get_array;
using metadata::get_number;
using metadata::get_size;
using metadata::kMost;

constexpr uint32_t kVersion = 5;
constexpr uint32_t kLeastTokens = 3;  // begin, end and one between them

// Types of tokens. CLIP's special ones are looked for in the raw prompt when they are control
// tokens, and in the lower-cased one when they are user-defined.
constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4;

// A number for each channel.
std::vector<float> get_numbers(const gguf::Metadata& metadata, const std::string& key,
                               int64_t channels) {
  std::vector<float> values = get_array<float>(metadata, key);
  const auto wanted = static_cast<size_t>(channels);
  require(values.size() == 1 || values.size() == wanted, ErrorKind::checkpoint, "[model] ", key,
          " must hold 1 number or ", wanted, ", got ", values.size());
  for (const float value : values) {
    require(std::isfinite(value), ErrorKind::checkpoint, "[model] ", key, " must be finite, got ",
            value);
  }
  values.resize(wanted, values[0]);
  return values;
}

// An id of the vocabulary.
int32_t get_id(const gguf::Metadata& metadata, const std::string& key, size_t vocabulary) {
  const uint32_t id = get<uint32_t>(metadata, key);
  require(id < vocabulary, ErrorKind::checkpoint, "[model] ", key, " is ", id,
          ", outside a vocabulary of ", vocabulary);
  return static_cast<int32_t>(id);
}

// Something about each token.
template <class T>
const std::vector<T>& get_column(const gguf::Metadata& metadata, const std::string& key,
                                 size_t vocabulary) {
  const auto& column = get_array<T>(metadata, key);
  require(column.size() == vocabulary, ErrorKind::checkpoint, "[model] ", key, " has ",
          column.size(), " entries for ", vocabulary, " tokens");
  return column;
}

// The tokens that stand for themselves.
std::vector<SpecialToken> get_special(const gguf::Metadata& metadata, const std::string& key,
                                      const std::vector<std::string>& tokens) {
  const auto& types = get_column<int32_t>(metadata, key, tokens.size());
  std::vector<SpecialToken> special;
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] != kControl && types[i] != kUserDefined) continue;
    special.push_back({tokens[i], static_cast<int32_t>(i), types[i] == kUserDefined});
  }
  return special;
}

ClipTokenizer read_tokenizer(const gguf::Metadata& metadata) {
  const std::string prefix = "tokenizer.ggml.";
  const auto vocabulary =
      std::make_shared<const ClipVocabulary>(get_array<std::string>(metadata, prefix + "tokens"),
                                             get_array<std::string>(metadata, prefix + "merges"));
  const std::vector<std::string>& tokens = vocabulary->tokens();
  const auto id = [&](const char* role) {
    return get_id(metadata, concat(prefix, role, "_token_id"), tokens.size());
  };
  ClipSpecials specials;
  specials.bos = id("bos");
  specials.eos = id("eos");
  specials.unknown = id("unknown");
  specials.pad = id("padding");
  specials.special = get_special(metadata, prefix + "token_type", tokens);
  return {vocabulary, std::move(specials)};
}

TextEncoderSettings read_encoder(const gguf::Metadata& metadata, const std::string& network,
                                 const std::shared_ptr<const ClipTokenizer>& tokenizer) {
  const std::string prefix = "sdcore.text." + network;
  const std::string end = prefix + ".end", types = prefix + ".token_type";
  const std::vector<std::string>& tokens = tokenizer->vocabulary()->tokens();
  TextEncoderSettings encoder{network, tokenizer};
  encoder.tokens = get_size(metadata, prefix + ".tokens", kMost, kLeastTokens);
  encoder.padding = get_id(metadata, prefix + ".padding", tokens.size());
  if (gguf::find(metadata, end)) encoder.end = get_id(metadata, end, tokens.size());
  if (gguf::find(metadata, types)) {
    ClipSpecials own = tokenizer->specials();
    own.special = get_special(metadata, types, tokens);
    encoder.tokenizer =
        std::make_shared<const ClipTokenizer>(tokenizer->vocabulary(), std::move(own));
  }
  return encoder;
}

// T5's vocabulary: tokenizer_3.ggml.* for text_encoder_3, tokenizer.ggml.* for text_encoder.
UnigramVocabulary read_pieces(const gguf::Metadata& metadata, const std::string& network) {
  constexpr std::string_view kEncoder = "text_encoder";
  require(network.starts_with(kEncoder), ErrorKind::checkpoint,
          "[model] sdcore.captions.network must be a text_encoder, got ", gguf::printable(network));
  const std::string prefix = "tokenizer" + network.substr(kEncoder.size()) + ".ggml.";
  const auto& tokens = get_array<std::string>(metadata, prefix + "tokens");
  const auto& scores = get_column<float>(metadata, prefix + "scores", tokens.size());
  const auto& types = get_column<int32_t>(metadata, prefix + "token_type", tokens.size());
  UnigramVocabulary v;
  for (size_t i = 0; i < tokens.size(); ++i) {
    v.pieces.push_back({tokens[i], scores[i], types[i] == kNormal});
    if (types[i] == kUnknown || types[i] == kControl || types[i] == kUserDefined) {
      v.special.push_back(static_cast<int32_t>(i));
    }
  }
  const auto id = [&](const char* role) {
    return get_id(metadata, concat(prefix, role, "_token_id"), tokens.size());
  };
  v.eos = id("eos");
  v.pad = id("padding");
  v.unknown = id("unknown");
  const auto& charsmap = get_array<uint8_t>(metadata, prefix + "precompiled_charsmap");
  v.charsmap.assign(charsmap.begin(), charsmap.end());
  v.add_prefix = get<bool>(metadata, prefix + "add_space_prefix");
  v.remove_extra_spaces = get<bool>(metadata, prefix + "remove_extra_whitespaces");
  return v;
}

CaptionSettings read_captions(const gguf::Metadata& metadata) {
  CaptionSettings captions;
  captions.tokens = get_size(metadata, "sdcore.captions.tokens", kMost, 0);
  if (captions.tokens == 0) return captions;
  captions.network = get<std::string>(metadata, "sdcore.captions.network");
  if (captions.network.empty()) return captions;  // read_text sees to the channels of zeros
  captions.masked = get<bool>(metadata, "sdcore.captions.masked");
  captions.cleaned = get<bool>(metadata, "sdcore.captions.cleaned");
  captions.tokenizer =
      std::make_shared<const UnigramTokenizer>(read_pieces(metadata, captions.network));
  return captions;
}

TextSettings read_text(const gguf::Metadata& metadata) {
  TextSettings text;
  text.zeros_for_none = get<bool>(metadata, "sdcore.text.zeros_for_none");
  text.channels = get_size(metadata, "sdcore.text.channels", kMost, 0);
  text.captions = read_captions(metadata);
  const auto& names = get_array<std::string>(metadata, "sdcore.text.encoders");
  require(!names.empty() || !text.captions.network.empty(), ErrorKind::checkpoint,
          "[model] neither sdcore.text.encoders nor sdcore.captions.network names a text encoder");
  require(text.channels > 0 || text.captions.tokens == 0 || !text.captions.network.empty(),
          ErrorKind::checkpoint,
          "[model] sdcore.text.channels must be above 0 where zeros stand for T5, got 0");
  if (names.empty()) return text;
  const auto tokenizer = std::make_shared<const ClipTokenizer>(read_tokenizer(metadata));
  for (const std::string& network : names) {
    text.encoders.push_back(read_encoder(metadata, network, tokenizer));
  }
  return text;
}

std::vector<TrainedSize> read_trained(const gguf::Metadata& metadata, const SizeSettings& size) {
  const std::string key = "sdcore.size.trained";
  const auto& values = get_array<double>(metadata, key);
  require(values.size() % 3 == 0, ErrorKind::checkpoint, "[model] ", key,
          " must hold rows of 3 numbers, got ", values.size(), " numbers");
  const auto side = [&](double value) {
    require(value >= 1 && value <= static_cast<double>(size.largest) &&
                std::fmod(value, static_cast<double>(size.multiple)) == 0,
            ErrorKind::checkpoint, "[model] ", key, " must hold sides that are multiples of ",
            size.multiple, " and at most ", size.largest, ", got ", value);
    return static_cast<int64_t>(value);
  };
  std::vector<TrainedSize> sizes;
  for (size_t i = 0; i < values.size(); i += 3) {
    require(std::isfinite(values[i]), ErrorKind::checkpoint, "[model] ", key,
            " must hold finite shapes, got ", values[i]);
    sizes.push_back({values[i], side(values[i + 1]), side(values[i + 2])});
  }
  return sizes;
}

SizeSettings read_sizes(const gguf::Metadata& metadata, int64_t pixels) {
  SizeSettings size;
  size.multiple = get_size(metadata, "sdcore.size.multiple");
  size.largest = get_size(metadata, "sdcore.size.largest");
  require(size.multiple % pixels == 0 && size.largest >= size.multiple, ErrorKind::checkpoint,
          "[model] sdcore.size.multiple must be a multiple of the ", pixels,
          " pixels of a latent, and at most sdcore.size.largest: got ", size.multiple, " and ",
          size.largest);
  size.trained = read_trained(metadata, size);
  return size;
}

}  // namespace

bool has_pipeline(const gguf::Metadata& metadata) {
  return gguf::find(metadata, "sdcore.pipeline.version") != nullptr;
}

std::string default_dtype(const gguf::Metadata& metadata) {
  const std::string key = "sdcore.default.dtype";
  return gguf::find(metadata, key) ? get<std::string>(metadata, key) : "auto";
}

PipelineSettings read_settings(const gguf::Metadata& metadata) {
  const uint32_t version = get<uint32_t>(metadata, "sdcore.pipeline.version");
  require(version == kVersion, ErrorKind::unsupported_model,
          "[model] the file holds a pipeline of version ", version,
          ", and this sdcore reads version ", kVersion,
          ": export the model again, with the sdcore that is to read it");
  PipelineSettings s;
  s.latent.channels = get_size(metadata, "sdcore.latent.channels");
  s.latent.pixels = get_size(metadata, "sdcore.latent.pixels");
  s.latent.scale = get_numbers(metadata, "sdcore.latent.scale", s.latent.channels);
  s.latent.shift = get_numbers(metadata, "sdcore.latent.shift", s.latent.channels);
  s.defaults.width = get_size(metadata, "sdcore.default.width");
  s.defaults.height = get_size(metadata, "sdcore.default.height");
  s.defaults.steps = get_size(metadata, "sdcore.default.steps");
  s.defaults.guidance_scale = get_number(metadata, "sdcore.default.guidance_scale");
  s.size = read_sizes(metadata, s.latent.pixels);
  s.text = read_text(metadata);
  s.denoiser = get<std::string>(metadata, "sdcore.denoiser.network");
  s.guidance_embedding = get_size(metadata, "sdcore.denoiser.guidance_embedding", kMost, 0);
  s.inpaints = get<bool>(metadata, "sdcore.denoiser.inpaints");
  s.schedules = read_schedules(metadata);
  require(s.schedules.contains(s.defaults.steps), ErrorKind::checkpoint,
          "[model] the file has no step table for its own ", s.defaults.steps, " steps");
  return s;
}

}  // namespace sdcore
