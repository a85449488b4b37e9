// CLIP's vocabulary: tokens in the byte alphabet of GPT-2, and the pairs of them that merge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/index_table.h"

namespace sdcore {

// Ends the tokens that end a word.
inline constexpr std::string_view kWordEnd = "</w>";

// Immutable, so safe to use from many threads and to share between tokenizers.
class ClipVocabulary {
 public:
  struct Merge {
    int32_t left, right;  // two tokens
    int32_t id;           // what they become
  };

  // Tokens by id; merges as "left right", the first applied first. Throws Error(checkpoint) where a
  // merge is not of two tokens that make a third.
  ClipVocabulary(std::vector<std::string> tokens, std::vector<std::string> merges);

  // What the first `most` of a list of merges, a line each, tell: the 256 bytes, the 256 bytes that
  // end a word, what each merge makes, and the two that begin and end a prompt.
  static ClipVocabulary from_merges(std::string_view lines, size_t most);

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<std::string>& merges() const { return merges_; }

  // The id of a token, of equal ones the first; -1: there is none.
  int32_t find(std::string_view token) const;

  // How early a pair of tokens merges, of equal ones the last; -1: never.
  int32_t rank(int32_t left, int32_t right) const;
  const Merge& merge(int32_t rank) const { return pairs_[static_cast<size_t>(rank)]; }

 private:
  std::vector<std::string> tokens_, merges_;
  std::vector<Merge> pairs_;  // by rank
  IndexTable ids_, ranks_;
};

// A byte as vocabularies write it: itself where it is printable, else a character from U+0100 on
// (GPT-2's bytes_to_unicode).
char32_t byte_character(uint8_t byte);

}  // namespace sdcore
