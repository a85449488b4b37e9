// SentencePiece's table of normalization: a trie of what is replaced, and the replacements
// (google/sentencepiece: normalizer.cc; the trie is a double array of s-yata/darts-clone).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sdcore {

class Charsmap {
 public:
  Charsmap() = default;  // replaces nothing
  // `blob` is precompiled_charsmap as files have it; throws Error(checkpoint) when it is damaged.
  explicit Charsmap(std::string_view blob);

  struct Match {
    std::string_view replacement;
    size_t length = 0;  // bytes of the text that are replaced; 0: none
  };
  // The longest beginning of `text` that is replaced.
  Match find(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string strings_;  // each ends with a NUL
};

}  // namespace sdcore
