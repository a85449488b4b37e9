#include "text/clip_bpe.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "text/unicode.h"

namespace sdcore {
namespace {

using Specials = std::vector<std::pair<std::u32string, int32_t>>;

std::u32string normalize(std::u32string_view text) {
  std::u32string composed = unicode::nfc(text);
  // A run of white space is one space.
  std::u32string spaced;
  spaced.reserve(composed.size());
  for (const char32_t c : composed) {
    if (!unicode::is_space(c)) {
      spaced += c;
    } else if (spaced.empty() || spaced.back() != U' ') {
      spaced += U' ';
    }
  }
  return unicode::lower(spaced);
}

struct Part {
  std::u32string_view text;
  int32_t id = -1;  // of a special token; -1 for text
};

// Cuts a text at its special tokens. Where several begin at one place, the longest counts.
std::vector<Part> split_special(std::u32string_view text, const Specials& specials) {
  std::vector<Part> parts;
  size_t begin = 0, i = 0;
  while (i < text.size()) {
    Part found;
    for (const auto& [special, id] : specials) {
      if (special.size() > found.text.size() && text.substr(i).starts_with(special)) {
        found = {special, id};
      }
    }
    if (found.id < 0) {
      ++i;
      continue;
    }
    if (i > begin) parts.push_back({text.substr(begin, i - begin)});
    parts.push_back(found);
    begin = i += found.text.size();
  }
  if (begin < text.size()) parts.push_back({text.substr(begin)});
  return parts;
}

// How many code points the word at the start of `text` has; `text` does not begin with a space.
size_t word_length(std::u32string_view text) {
  if (text[0] == U'\'') {
    for (const std::u32string_view contraction :
         {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
      if (text.starts_with(contraction)) return contraction.size();
    }
  }
  if (unicode::is_number(text[0])) return 1;
  const bool letters = unicode::is_letter(text[0]);
  size_t n = 1;
  while (n < text.size() &&
         (letters ? unicode::is_letter(text[n])
                  : !unicode::is_letter(text[n]) && !unicode::is_number(text[n]) &&
                        !unicode::is_space(text[n]))) {
    ++n;
  }
  return n;
}

// Where the text begins with one of CLIP's markers, how long the name within it is; else 0. The
// marker of a prompt is a special token, found before; this is one written in capitals, which
// transformers splits in three.
size_t marker_name_length(std::u32string_view text) {
  for (const std::u32string_view name : {U"startoftext", U"endoftext"}) {
    if (text.starts_with(U"<|") && text.substr(2).starts_with(name) &&
        text.substr(2 + name.size()).starts_with(U"|>")) {
      return name.size();
    }
  }
  return 0;
}

}  // namespace

ClipTokenizer::ClipTokenizer(std::shared_ptr<const ClipVocabulary> vocabulary,
                             ClipSpecials specials)
    : vocabulary_(std::move(vocabulary)), specials_(std::move(specials)) {
  const auto id_or_unknown = [&](std::string_view token) {
    const int32_t id = vocabulary_->find(token);
    return id < 0 ? specials_.unknown : id;
  };
  for (size_t b = 0; b < 256; ++b) {
    std::string token;
    unicode::append_utf8(byte_character(static_cast<uint8_t>(b)), token);
    inner_[b] = id_or_unknown(token);
    last_[b] = id_or_unknown(token.append(kWordEnd));
  }
  comma_ = vocabulary_->find(",</w>");

  const int32_t count = static_cast<int32_t>(vocabulary_->tokens().size());
  for (const int32_t id : {specials_.bos, specials_.eos, specials_.pad, specials_.unknown}) {
    require(id >= 0 && id < count, ErrorKind::checkpoint, "[clip_bpe] token ", id,
            " is not in a vocabulary of ", count);
  }
  for (const SpecialToken& special : specials_.special) {
    require(!special.text.empty() && special.id >= 0, ErrorKind::checkpoint,
            "[clip_bpe] special token '", special.text, "' cannot have id ", special.id);
    const std::u32string text = unicode::decode(special.text);
    if (special.normalized) {
      normalized_special_.emplace_back(normalize(text), special.id);
    } else {
      raw_special_.emplace_back(text, special.id);
    }
  }
}

// Applies, again and again, the merge of lowest rank, leftmost first. Symbols are a linked list and
// candidates a heap, so a word of n bytes takes n log n steps whatever it holds.
void ClipTokenizer::encode_word(std::u32string_view word, std::vector<int32_t>& ids) const {
  std::string bytes;
  for (const char32_t c : word) unicode::append_utf8(c, bytes);

  struct Symbol {
    int32_t id, previous, next;  // next is -1 at the end; id is -1 when merged into another
  };
  const int32_t count = static_cast<int32_t>(bytes.size());
  std::vector<Symbol> symbols;
  symbols.reserve(bytes.size());
  for (int32_t i = 0; i < count; ++i) {
    const auto byte = static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
    const bool last = i + 1 == count;
    symbols.push_back({last ? last_[byte] : inner_[byte], i - 1, last ? -1 : i + 1});
  }

  struct Candidate {
    int32_t rank, left;
    bool operator>(const Candidate& other) const {
      return std::pair(rank, left) > std::pair(other.rank, other.left);
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto at = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto consider = [&](int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const int32_t rank = vocabulary_->rank(at(left).id, at(at(left).next).id);
    if (rank >= 0) candidates.push({rank, left});
  };

  for (int32_t i = 0; i < count; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = at(best.left);
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = at(left.next);
    // Unless one of the two has merged since.
    if (vocabulary_->rank(left.id, right.id) != best.rank) continue;
    left.id = vocabulary_->merge(best.rank).id;
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = best.left;
    right.id = -1;
    consider(left.previous);
    consider(best.left);
  }
  for (int32_t i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

void ClipTokenizer::encode_words(std::u32string_view text, std::vector<int32_t>& ids) const {
  size_t i = 0;
  const auto take = [&](size_t length) {
    encode_word(text.substr(i, length), ids);
    i += length;
  };
  while (i < text.size()) {
    if (unicode::is_space(text[i])) {
      ++i;
    } else if (const size_t name = marker_name_length(text.substr(i)); name > 0) {
      for (const size_t length : {size_t{2}, name, size_t{2}}) take(length);
    } else {
      take(word_length(text.substr(i)));
    }
  }
}

std::vector<int32_t> ClipTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  const std::u32string decoded = unicode::decode(text);
  for (const Part& raw : split_special(decoded, raw_special_)) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    const std::u32string normalized = normalize(raw.text);
    for (const Part& part : split_special(normalized, normalized_special_)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else {
        encode_words(part.text, ids);
      }
    }
  }
  return ids;
}

std::vector<int32_t> ClipTokenizer::encode_padded(std::string_view text, int64_t max_length) const {
  require(max_length >= 2, ErrorKind::invalid_argument,
          "[clip_bpe] max_length must leave room for the two end tokens, got ", max_length);
  const std::vector<int32_t> ids = encode(text);
  const auto length = static_cast<size_t>(max_length);
  std::vector<int32_t> padded(length, specials_.pad);
  const size_t kept = std::min(ids.size(), length - 2);
  padded[0] = specials_.bos;
  std::copy_n(ids.begin(), kept, padded.begin() + 1);
  padded[kept + 1] = specials_.eos;
  return padded;
}

std::string ClipTokenizer::decode(const std::vector<int32_t>& ids) const {
  static const std::unordered_map<char32_t, char> bytes = [] {
    std::unordered_map<char32_t, char> map;
    for (uint32_t b = 0; b < 256; ++b) {
      map.emplace(byte_character(static_cast<uint8_t>(b)), static_cast<char>(b));
    }
    return map;
  }();
  std::string text;
  for (const int32_t id : ids) {
    const bool known = id >= 0 && static_cast<size_t>(id) < vocabulary_->tokens().size();
    require(known, ErrorKind::invalid_argument, "[clip_bpe] there is no token ", id);
    std::string_view token = vocabulary_->tokens()[static_cast<size_t>(id)];
    const bool ends_word = token.ends_with(kWordEnd);
    if (ends_word) token.remove_suffix(kWordEnd.size());
    for (const char32_t c : unicode::decode(token)) {
      const auto byte = bytes.find(c);
      if (byte != bytes.end()) text += byte->second;
    }
    if (ends_word) text += ' ';
  }
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

}  // namespace sdcore
