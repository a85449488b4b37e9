// What the text encoders of a model make of prompts: of any length and with weights, as
// python/sdcore/pipelines/clip_text.py does.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pipeline/run_network.h"
#include "pipeline/settings.h"

namespace sdcore {

// The states [tokens, channels] of all encoders side by side, and what the last one pools.
struct TextStates {
  int64_t tokens = 0, channels = 0;
  std::vector<float> hidden, pooled;

  // Zeros of the same sizes.
  TextStates zeros() const {
    return {tokens, channels, std::vector<float>(hidden.size()), std::vector<float>(pooled.size())};
  }
};

class TextEncoders {
 public:
  // Networks as `settings` list them.
  TextEncoders(std::vector<std::shared_ptr<Network>> networks, TextSettings settings);

  std::vector<TextStates> encode(const std::vector<std::string>& texts) const;

 private:
  // Of one text, by encoder, and as many for each.
  std::vector<std::vector<PromptRow>> rows(const std::string& text) const;
  // What encoder `at` makes of its rows, text by text.
  std::vector<TextStates> encode_by(size_t at,
                                    const std::vector<std::vector<PromptRow>>& rows) const;

  std::vector<std::shared_ptr<Network>> networks_;
  TextSettings settings_;
};

}  // namespace sdcore
