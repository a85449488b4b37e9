// SentencePiece's unigram tokenizer, as T5 uses it: the pieces whose scores sum highest (Kudo 2018,
// "Subword regularization"; google/sentencepiece: unigram_model.cc, normalizer.cc).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/charsmap.h"

namespace sdcore {

struct UnigramVocabulary {
  struct Piece {
    std::string text;  // with U+2581 for a space
    float score = 0.0f;
    bool normal = true;  // control tokens and the like are not looked for
  };
  std::vector<Piece> pieces;  // by id
  std::string charsmap;       // precompiled_charsmap, or empty
  // Ids of tokens that stand for themselves wherever they occur in a prompt.
  std::vector<int32_t> special;
  int32_t eos = 1, pad = 0, unknown = 2;
  bool add_prefix = true;           // a space before the text
  bool remove_extra_spaces = true;  // at its ends, and of several in a row
};

// Immutable, so safe to use from many threads.
class UnigramTokenizer {
 public:
  // Throws Error(checkpoint) when the parts do not fit together.
  explicit UnigramTokenizer(UnigramVocabulary vocabulary);
  UnigramTokenizer(UnigramTokenizer&&) = default;  // no copies: normal_ looks into vocabulary_

  // All ids of a prompt in UTF-8, without the end token. Bytes that are not UTF-8 read as U+FFFD.
  std::vector<int32_t> encode(std::string_view text) const;

  // At most length - 1 ids and the end token, then padding; returns how many are not padding.
  int64_t encode_padded(std::string_view text, int64_t length, std::vector<int32_t>& ids) const;

  const UnigramVocabulary& vocabulary() const { return vocabulary_; }

  // The text as pieces are looked for in it.
  std::string normalize(std::string_view text) const;

 private:
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const;
  void append_unknown(std::string_view character, std::vector<int32_t>& ids) const;

  UnigramVocabulary vocabulary_;
  Charsmap charsmap_;
  std::unordered_map<std::string_view, int32_t> normal_;  // into vocabulary_
  std::vector<int32_t> bytes_;                            // ids of <0x00> to <0xFF>, or none
  size_t longest_ = 0;                                    // bytes of a piece
  float unknown_score_ = 0.0f;
};

}  // namespace sdcore
