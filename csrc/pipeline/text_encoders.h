// What the text encoders of a model make of prompts: of any length and with weights, as
// python/sdcore/pipelines/clip_text.py and t5_text.py do.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pipeline/run_network.h"
#include "pipeline/settings.h"

namespace sdcore {

// States [tokens, channels], what CLIPs pool, side by side, and what attention adds to the scores
// of each token.
struct TextStates {
  int64_t tokens = 0, channels = 0;
  std::vector<float> hidden, pooled, mask;

  // Zeros of the same sizes in place of states.
  TextStates zeros() const {
    return {tokens, channels, std::vector<float>(hidden.size()), std::vector<float>(pooled.size()),
            mask};
  }
};

class TextEncoders {
 public:
  struct Networks {
    std::vector<std::shared_ptr<Network>> clips;  // as the settings list them
    std::shared_ptr<Network> captions;            // null: the settings name none
  };

  TextEncoders(Networks networks, TextSettings settings);

  // Those of the CLIPs side by side, then those of T5.
  std::vector<TextStates> encode(const std::vector<std::string>& texts,
                                 const Observer& observer) const;

 private:
  // Of one text, by encoder, and as many for each.
  std::vector<std::vector<PromptRow>> rows(const std::string& text) const;
  // What CLIP `at` makes of its rows, text by text.
  std::vector<TextStates> encode_by(size_t at, const std::vector<std::vector<PromptRow>>& rows,
                                    const Observer& observer) const;
  std::vector<TextStates> encode_captions(const std::vector<std::string>& texts,
                                          const Observer& observer) const;

  Networks networks_;
  TextSettings settings_;
};

}  // namespace sdcore
