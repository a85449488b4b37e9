// Prompts of any length as rows of tokens for CLIP, cut as A1111's web UI cuts them.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "text/clip_bpe.h"

namespace sdcore {

// Tokens that stay together under one weight: one, or all that a word of a user's own stands for;
// or none, where a section begins.
struct TokenGroup {
  std::vector<int32_t> ids;
  double weight = 1.0;
  int64_t section = 0;
};

// As many tokens as a text encoder takes, with begin, end and padding, and a weight each.
struct PromptRow {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// The rows of a prompt's tokens, each `length` long. A prompt that fits is one row; longer ones,
// and those of several sections, have more. `padding` is the id after the end.
std::vector<PromptRow> cut_rows(std::span<const TokenGroup> groups, const ClipTokenizer& tokenizer,
                                int64_t length, int32_t padding);

// The same from the text of a prompt, with its weights and BREAKs.
std::vector<PromptRow> prompt_rows(std::string_view prompt, const ClipTokenizer& tokenizer,
                                   int64_t length, int32_t padding);

// Multiplies each token's state, [weights.size()] rows of one size, by its weight, and all of them
// so that their mean stays what it was: the web UI's way. Weights of 1 alone change nothing.
void weigh_states(std::span<float> states, std::span<const float> weights);

}  // namespace sdcore
