#include "pipeline/told.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

#include "base/error.h"

namespace sdcore {
namespace {

using Values = std::vector<float>;

Values pooled(const Facts& facts) { return facts.text.pooled; }

Values mask(const Facts& facts) { return facts.text.mask; }

Values resolution(const Facts& facts) {
  return {static_cast<float>(facts.height), static_cast<float>(facts.width)};
}

Values time_ids(const Facts& facts) {
  const Values size = resolution(facts);
  return {size[0], size[1], 0, 0, size[0], size[1]};
}

Values aspect_ratio(const Facts& facts) {
  return {static_cast<float>(static_cast<double>(facts.height) / static_cast<double>(facts.width))};
}

// As guidance_embedding in python/sdcore/models/unet.py.
Values guidance_embedding(const Facts& facts) {
  Values embedding(static_cast<size_t>(facts.guidance_embedding), 0.0f);
  const int64_t half = facts.guidance_embedding / 2;
  const double rate = -std::log(10000.0) / static_cast<double>(half - 1);
  for (int64_t i = 0; i < half; ++i) {
    const double angle = 1000.0 * (static_cast<double>(facts.guidance_scale) - 1) *
                         std::exp(rate * static_cast<double>(i));
    embedding[static_cast<size_t>(i)] = static_cast<float>(std::sin(angle));
    embedding[static_cast<size_t>(half + i)] = static_cast<float>(std::cos(angle));
  }
  return embedding;
}

struct Input {
  std::string_view name;
  Values (*values)(const Facts&);
};

constexpr Input kInputs[] = {
    {"text_embeds", pooled},
    {"pooled_projections", pooled},
    {"mask", mask},
    {"time_ids", time_ids},
    {"resolution", resolution},
    {"aspect_ratio", aspect_ratio},
    {"timestep_cond", guidance_embedding},
};

const Input* find(std::string_view name) {
  const auto* found = std::find_if(std::begin(kInputs), std::end(kInputs),
                                   [name](const Input& input) { return input.name == name; });
  return found == std::end(kInputs) ? nullptr : found;
}

}  // namespace

std::vector<std::string> told_inputs(const Graph& denoiser) {
  std::vector<std::string> inputs;
  for (const std::string& name : input_names(denoiser)) {
    if (name == "sample" || name == "timestep" || name == "encoder_hidden_states") continue;
    require(find(name) != nullptr, ErrorKind::unsupported_model, "[model] the denoiser takes ",
            name, ", of which a pipeline knows nothing");
    inputs.push_back(name);
  }
  return inputs;
}

std::vector<float> told(const std::string& input, const Facts& facts) {
  return find(input)->values(facts);
}

}  // namespace sdcore
