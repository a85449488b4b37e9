#include "text/clip_vocabulary.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "base/error.h"
#include "text/unicode.h"

namespace sdcore {
namespace {

std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet;
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    alphabet[b] = printable ? b : next++;
  }
  return alphabet;
}

uint64_t hash_of(std::string_view token) { return std::hash<std::string_view>{}(token); }

uint64_t hash_of(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// The tokens of single bytes: first those that are printable themselves, then the others.
std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  for (const std::string_view end : {std::string_view(), kWordEnd}) {
    for (const bool printable : {true, false}) {
      for (uint32_t b = 0; b < 256; ++b) {
        const char32_t character = byte_character(static_cast<uint8_t>(b));
        if ((character < 0x100) != printable) continue;
        unicode::append_utf8(character, tokens.emplace_back());
        tokens.back() += end;
      }
    }
  }
  return tokens;
}

}  // namespace

char32_t byte_character(uint8_t byte) {
  static const std::array<char32_t, 256> alphabet = make_alphabet();
  return alphabet[byte];
}

ClipVocabulary::ClipVocabulary(std::vector<std::string> tokens, std::vector<std::string> merges)
    : tokens_(std::move(tokens)),
      merges_(std::move(merges)),
      ids_(tokens_.size()),
      ranks_(merges_.size()) {
  int32_t next = 0;
  for (const std::string& token : tokens_) {
    int32_t& slot = ids_.slot(hash_of(token),
                              [&](int32_t i) { return tokens_[static_cast<size_t>(i)] == token; });
    if (slot == IndexTable::kNone) slot = next;
    ++next;
  }

  pairs_.reserve(merges_.size());
  std::string joined;
  for (const std::string_view line : merges_) {
    const size_t rank = pairs_.size(), space = line.find(' ');
    require(space != std::string_view::npos, ErrorKind::checkpoint, "[clip_bpe] merge ", rank,
            " must be two tokens with a space between, got '", line, "'");
    const auto id_of = [&](std::string_view token) {
      const int32_t id = find(token);
      require(id >= 0, ErrorKind::checkpoint, "[clip_bpe] merge ", rank, " ('", line,
              "') needs the token '", token, "', which is not in the vocabulary");
      return id;
    };
    const std::string_view left = line.substr(0, space), right = line.substr(space + 1);
    joined.assign(left).append(right);
    const Merge merge{id_of(left), id_of(right), id_of(joined)};
    ranks_.slot(hash_of(merge.left, merge.right), [&](int32_t i) {
      const Merge& other = pairs_[static_cast<size_t>(i)];
      return other.left == merge.left && other.right == merge.right;
    }) = static_cast<int32_t>(rank);
    pairs_.push_back(merge);
  }
}

ClipVocabulary ClipVocabulary::from_merges(std::string_view lines, size_t most) {
  std::vector<std::string> tokens = byte_tokens(), merges;
  merges.reserve(most);
  tokens.reserve(tokens.size() + most + 2);
  while (!lines.empty() && merges.size() < most) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    merges.emplace_back(line);
    std::string& token = tokens.emplace_back(line);
    std::erase(token, ' ');
    lines.remove_prefix(std::min(line.size() + 1, lines.size()));
  }
  tokens.insert(tokens.end(), {"<|startoftext|>", "<|endoftext|>"});
  return {std::move(tokens), std::move(merges)};
}

int32_t ClipVocabulary::find(std::string_view token) const {
  return ids_.at(hash_of(token),
                 [&](int32_t i) { return tokens_[static_cast<size_t>(i)] == token; });
}

int32_t ClipVocabulary::rank(int32_t left, int32_t right) const {
  return ranks_.at(hash_of(left, right), [&](int32_t i) {
    const Merge& merge = pairs_[static_cast<size_t>(i)];
    return merge.left == left && merge.right == right;
  });
}

}  // namespace sdcore
