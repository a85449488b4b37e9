#include "text/caption_rows.h"

#include "base/error.h"
#include "text/caption_cleaning.h"
#include "text/emphasis.h"

namespace sdcore {

CaptionRow caption_row(std::span<const TokenGroup> groups, const UnigramTokenizer& tokenizer,
                       int64_t length) {
  require(length >= 1, ErrorKind::invalid_argument,
          "[tokenizer] a row must have at least 1 token, got ", length);
  const auto room = static_cast<size_t>(length - 1);
  CaptionRow made;
  auto& [ids, weights] = made.row;
  for (const TokenGroup& group : groups) {
    for (const int32_t id : group.ids) {
      if (ids.size() == room) {
        made.left_out.push_back(id);
        continue;
      }
      ids.push_back(id);
      weights.push_back(static_cast<float>(group.weight));
    }
  }
  ids.push_back(tokenizer.vocabulary().eos);
  made.used = static_cast<int64_t>(ids.size());
  ids.resize(static_cast<size_t>(length), tokenizer.vocabulary().pad);
  weights.resize(static_cast<size_t>(length), 1.0f);
  return made;
}

CaptionRow caption_row(std::string_view prompt, const UnigramTokenizer& tokenizer, int64_t length,
                       bool cleaned) {
  std::vector<TokenGroup> groups;
  for (const PromptPiece& piece : parse_emphasis(prompt)) {
    const std::string text = cleaned ? clean_caption(piece.text) : piece.text;
    groups.push_back({tokenizer.encode(text), piece.weight, piece.section});
  }
  return caption_row(groups, tokenizer, length);
}

void weigh_beyond(std::span<float> states, std::span<const float> empty,
                  std::span<const float> weights) {
  const size_t width = states.size() / weights.size();
  for (size_t i = 0; i < states.size(); ++i) {
    const float weight = weights[i / width];
    if (weight != 1.0f) states[i] = empty[i] + weight * (states[i] - empty[i]);
  }
}

}  // namespace sdcore
