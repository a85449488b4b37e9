// Prompts as one row of tokens, for T5.
#pragma once

#include "text/prompt_rows.h"
#include "text/unigram.h"

namespace sdcore {

struct CaptionRow {
  PromptRow row;
  int64_t used = 0;               // tokens that are not padding
  std::vector<int32_t> left_out;  // those that found no room
};

// A row of `length` tokens with end and padding. Sections and groups mean nothing here.
CaptionRow caption_row(std::span<const TokenGroup> groups, const UnigramTokenizer& tokenizer,
                       int64_t length);

// The same from the text of a prompt with its weights, cleaned where that is how T5 is to read it.
CaptionRow caption_row(std::string_view prompt, const UnigramTokenizer& tokenizer, int64_t length,
                       bool cleaned);

// A weight scales what a token's state is beyond that of an empty prompt at its place: ComfyUI's
// way. (The web UI's, the mean of all states, is near zero for T5.) Both are [weights.size()] rows
// of one size; a weight of 1 changes nothing.
void weigh_beyond(std::span<float> states, std::span<const float> empty,
                  std::span<const float> weights);

}  // namespace sdcore
