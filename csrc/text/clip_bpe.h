// CLIP's tokenizer: byte-level BPE, with the ids that transformers' CLIPTokenizer gives.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/clip_vocabulary.h"

namespace sdcore {

// A token that stands for itself wherever it occurs in a prompt: <|endoftext|>, an added word.
struct SpecialToken {
  std::string text;
  int32_t id = 0;
  // Looked for after normalization and lower-casing, so in any case; otherwise in the raw prompt.
  bool normalized = false;
};

// What a tokenizer has beside its vocabulary, by id.
struct ClipSpecials {
  std::vector<SpecialToken> special;
  int32_t bos = 0, eos = 0, pad = 0;
  int32_t unknown = 0;  // for a byte that is no token
};

// Immutable, so safe to use from many threads.
class ClipTokenizer {
 public:
  // Throws Error(checkpoint) for special tokens that are none of the vocabulary.
  ClipTokenizer(std::shared_ptr<const ClipVocabulary> vocabulary, ClipSpecials specials);

  // All ids of a prompt in UTF-8, without BOS and EOS. Bytes that are not UTF-8 read as U+FFFD.
  std::vector<int32_t> encode(std::string_view text) const;

  // What a text encoder takes: BOS, at most max_length - 2 ids, EOS, then padding.
  std::vector<int32_t> encode_padded(std::string_view text, int64_t max_length) const;

  // The text of ids, as near to the prompt as the tokens tell; may break off within a character.
  std::string decode(const std::vector<int32_t>& ids) const;

  const std::shared_ptr<const ClipVocabulary>& vocabulary() const { return vocabulary_; }
  const ClipSpecials& specials() const { return specials_; }
  int32_t comma() const { return comma_; }  // the id of a comma alone; -1 where there is none

 private:
  void encode_words(std::u32string_view text, std::vector<int32_t>& ids) const;
  void encode_word(std::u32string_view word, std::vector<int32_t>& ids) const;

  std::shared_ptr<const ClipVocabulary> vocabulary_;
  ClipSpecials specials_;
  std::array<int32_t, 256> inner_, last_;  // ids of one byte within a word and at its end
  int32_t comma_ = -1;
  // Special tokens by where they are looked for: in the raw prompt, and after normalization.
  std::vector<std::pair<std::u32string, int32_t>> raw_special_, normalized_special_;
};

}  // namespace sdcore
