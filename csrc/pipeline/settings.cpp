#include "pipeline/settings.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "base/error.h"

namespace sdcore {
namespace {

constexpr uint32_t kVersion = 2;
constexpr std::string_view kTable = "sdcore.table.";
constexpr std::string_view kRows = ".rows";
constexpr size_t kRowHead = 8;      // values before the terms
constexpr size_t kTerm = 4;         // values of a term
constexpr uint32_t kMaxTerms = 64;  // no method looks further back

// A special token is looked for in the raw prompt when it is a control token of GGUF, and in the
// lower-cased one when it is user-defined.
constexpr int32_t kControl = 3, kUserDefined = 4;

template <class T>
const T& get(const gguf::Metadata& metadata, const std::string& key) {
  const gguf::Value* value = gguf::find(metadata, key);
  require(value != nullptr, ErrorKind::checkpoint, "[model] the file's metadata has no ", key);
  const T* typed = std::get_if<T>(value);
  require(typed != nullptr, ErrorKind::checkpoint, "[model] ", key,
          " is of another type: ", gguf::kTypeNames[value->index()]);
  return *typed;
}

template <class T>
const std::vector<T>& get_array(const gguf::Metadata& metadata, const std::string& key) {
  const auto* items = std::get_if<std::vector<T>>(&get<gguf::Array>(metadata, key).items);
  require(items != nullptr, ErrorKind::checkpoint, "[model] ", key, " is an array of another type");
  return *items;
}

int64_t get_size(const gguf::Metadata& metadata, const std::string& key, uint32_t most) {
  const uint32_t value = get<uint32_t>(metadata, key);
  require(value >= 1 && value <= most, ErrorKind::checkpoint, "[model] ", key,
          " must be between 1 and ", most, ", got ", value);
  return value;
}

float get_number(const gguf::Metadata& metadata, const std::string& key) {
  const float value = get<float>(metadata, key);
  require(std::isfinite(value), ErrorKind::checkpoint, "[model] ", key, " must be finite, got ",
          value);
  return value;
}

StepRow read_row(const float* values, size_t terms) {
  StepRow row;
  row.timestep = values[0];
  row.input_scale = values[1];
  row.x0_from_x = values[2];
  row.x0_from_m = values[3];
  row.clip = values[4];
  row.quantile = values[5];
  row.noise = values[6];
  row.draws = values[7] != 0;
  for (size_t i = 0; i < terms; ++i) {
    const float* term = values + kRowHead + kTerm * i;
    row.terms.push_back({term[0], term[1], term[2], term[3]});
  }
  // A row that says it looks back can only follow that many others.
  const auto is_zero = [](const StepTerm& t) {
    return t.x == 0 && t.x0 == 0 && t.m == 0 && t.z == 0;
  };
  while (row.terms.size() > 1 && is_zero(row.terms.back())) row.terms.pop_back();
  return row;
}

StepTable read_table(const gguf::Metadata& metadata, const std::string& prefix) {
  const auto terms = static_cast<size_t>(get_size(metadata, prefix + ".terms", kMaxTerms));
  const auto& values = get_array<float>(metadata, prefix + std::string(kRows));
  const size_t width = kRowHead + kTerm * terms;
  require(!values.empty() && values.size() % width == 0, ErrorKind::checkpoint, "[model] ", prefix,
          kRows, " must hold rows of ", width, " numbers, got ", values.size(), " numbers");
  StepTable table;
  table.init_noise_sigma = get_number(metadata, prefix + ".init_noise_sigma");
  for (size_t i = 0; i < values.size(); i += width) {
    table.rows.push_back(read_row(&values[i], terms));
  }
  try {
    check(table);
  } catch (const Error& error) {
    fail(ErrorKind::checkpoint, "[model] ", prefix, ": ", error.what());
  }
  return table;
}

std::map<int64_t, StepTable> read_tables(const gguf::Metadata& metadata) {
  std::map<int64_t, StepTable> tables;
  for (const auto& [key, value] : metadata) {
    if (!key.starts_with(kTable) || !key.ends_with(kRows)) continue;
    const std::string prefix = key.substr(0, key.size() - kRows.size());
    const std::string number = prefix.substr(std::min(kTable.size(), prefix.size()));
    int64_t steps = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), steps);
    require(error == std::errc() && end == number.data() + number.size() && steps >= 1,
            ErrorKind::checkpoint, "[model] ", gguf::printable(key),
            " does not name a number of steps");
    tables.emplace(steps, read_table(metadata, prefix));
  }
  return tables;
}

ClipVocabulary read_vocabulary(const gguf::Metadata& metadata) {
  const std::string prefix = "tokenizer.ggml.";
  ClipVocabulary v;
  v.tokens = get_array<std::string>(metadata, prefix + "tokens");
  v.merges = get_array<std::string>(metadata, prefix + "merges");
  const auto id = [&](const char* role) {
    const uint32_t value = get<uint32_t>(metadata, concat(prefix, role, "_token_id"));
    require(value < v.tokens.size(), ErrorKind::checkpoint, "[model] ", prefix, role,
            "_token_id is ", value, ", outside a vocabulary of ", v.tokens.size());
    return static_cast<int32_t>(value);
  };
  v.bos = id("bos");
  v.eos = id("eos");
  v.unknown = id("unknown");
  v.pad = id("padding");
  const auto& types = get_array<int32_t>(metadata, prefix + "token_type");
  require(types.size() == v.tokens.size(), ErrorKind::checkpoint, "[model] ", prefix,
          "token_type has ", types.size(), " entries for ", v.tokens.size(), " tokens");
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] != kControl && types[i] != kUserDefined) continue;
    v.special.push_back({v.tokens[i], static_cast<int32_t>(i), types[i] == kUserDefined});
  }
  return v;
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
          "[model] the file holds a pipeline of ", "version ", version,
          ", and this sdcore reads version ", kVersion);
  constexpr uint32_t kMost = 1 << 16;
  PipelineSettings s;
  s.latent.channels = get_size(metadata, "sdcore.latent.channels", kMost);
  s.latent.pixels = get_size(metadata, "sdcore.latent.pixels", kMost);
  s.latent.scale = get_number(metadata, "sdcore.latent.scale");
  s.latent.shift = get_number(metadata, "sdcore.latent.shift");
  s.defaults.width = get_size(metadata, "sdcore.default.width", kMost);
  s.defaults.height = get_size(metadata, "sdcore.default.height", kMost);
  s.defaults.steps = get_size(metadata, "sdcore.default.steps", kMost);
  s.defaults.guidance_scale = get_number(metadata, "sdcore.default.guidance_scale");
  s.text_tokens = get_size(metadata, "sdcore.text.tokens", kMost);
  s.tables = read_tables(metadata);
  require(s.tables.contains(s.defaults.steps), ErrorKind::checkpoint,
          "[model] the file has no step table for its own ", s.defaults.steps, " steps");
  s.vocabulary = read_vocabulary(metadata);
  return s;
}

}  // namespace sdcore
