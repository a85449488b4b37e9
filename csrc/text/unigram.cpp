#include "text/unigram.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "text/unicode.h"

namespace sdcore {
namespace {

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581
constexpr float kUnknownPenalty = 10.0f;             // below the lowest score of a piece

// Bytes of the character that begins a sound UTF-8 text.
size_t character_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

std::string sound_utf8(std::string_view text) {
  std::string sound;
  for (const char32_t c : unicode::decode(text)) unicode::append_utf8(c, sound);
  return sound;
}

std::string byte_token(int byte) {
  constexpr const char* kDigits = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + '>';
}

}  // namespace

UnigramTokenizer::UnigramTokenizer(UnigramVocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), charsmap_(vocabulary_.charsmap) {
  const auto count = static_cast<int32_t>(vocabulary_.pieces.size());
  const auto inside = [&](int32_t id, const char* what) {
    require(id >= 0 && id < count, ErrorKind::checkpoint, "[tokenizer] the ", what, " token is ",
            id, ", outside a vocabulary of ", count);
  };
  inside(vocabulary_.eos, "end");
  inside(vocabulary_.pad, "padding");
  inside(vocabulary_.unknown, "unknown");
  for (const int32_t id : vocabulary_.special) inside(id, "special");
  float lowest = 0.0f;
  std::unordered_map<std::string_view, int32_t> others;
  for (int32_t id = 0; id < count; ++id) {
    const auto& piece = vocabulary_.pieces[static_cast<size_t>(id)];
    if (!piece.normal) {
      others.emplace(piece.text, id);
      continue;
    }
    if (piece.text.empty()) continue;
    normal_.emplace(piece.text, id);
    longest_ = std::max(longest_, piece.text.size());
    lowest = std::min(lowest, piece.score);
  }
  unknown_score_ = lowest - kUnknownPenalty;
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = others.find(byte_token(byte));
    if (found == others.end()) {
      bytes_.clear();
      break;
    }
    bytes_.push_back(found->second);
  }
  // The longest first, where one is the beginning of another.
  std::sort(vocabulary_.special.begin(), vocabulary_.special.end(), [&](int32_t a, int32_t b) {
    const auto& pieces = vocabulary_.pieces;
    return pieces[static_cast<size_t>(a)].text.size() > pieces[static_cast<size_t>(b)].text.size();
  });
}

std::string UnigramTokenizer::normalize(std::string_view text) const {
  const std::string sound = sound_utf8(text);
  std::string_view rest = sound;
  std::string out;
  bool after_space = vocabulary_.remove_extra_spaces;
  while (!rest.empty()) {
    Charsmap::Match match = charsmap_.find(rest);
    if (match.length == 0) {
      match.length = character_length(rest[0]);
      match.replacement = rest.substr(0, match.length);
    }
    for (const char c : match.replacement) {
      if (c != ' ') {
        out += c;
      } else if (!after_space || !vocabulary_.remove_extra_spaces) {
        out += kSpace;
      }
      after_space = c == ' ';
    }
    rest.remove_prefix(match.length);
  }
  if (vocabulary_.remove_extra_spaces && after_space && out.ends_with(kSpace)) {
    out.resize(out.size() - kSpace.size());
  }
  if (vocabulary_.add_prefix && !out.empty()) out.insert(0, kSpace);
  return out;
}

std::vector<int32_t> UnigramTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    const auto found =
        std::find_if(vocabulary_.special.begin(), vocabulary_.special.end(), [&](int32_t id) {
          const std::string& token = vocabulary_.pieces[static_cast<size_t>(id)].text;
          return !token.empty() && text.substr(at).starts_with(token);
        });
    if (found == vocabulary_.special.end()) {
      ++at;
      continue;
    }
    encode_plain(text.substr(begin, at - begin), ids);
    ids.push_back(*found);
    begin = at += vocabulary_.pieces[static_cast<size_t>(*found)].text.size();
  }
  encode_plain(text.substr(begin), ids);
  return ids;
}

// The best way to each end of a character, by Viterbi; a character that is no piece is a node of
// its own.
void UnigramTokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  const std::string normal = normalize(text);
  struct Node {
    double score = -std::numeric_limits<double>::infinity();
    size_t begin = 0;
    int32_t id = -1;  // -1: unknown
  };
  std::vector<Node> best(normal.size() + 1);
  best[0].score = 0.0;
  const std::string_view all = normal;
  for (size_t begin = 0; begin < all.size(); begin += character_length(all[begin])) {
    const auto offer = [&](size_t length, float score, int32_t id) {
      Node& end = best[begin + length];
      const double sum = best[begin].score + static_cast<double>(score);
      if (sum > end.score) end = {sum, begin, id};
    };
    const size_t character = std::min(character_length(all[begin]), all.size() - begin);
    const size_t most = std::min(longest_, all.size() - begin);
    bool known = false;
    for (size_t length = character; length <= most;
         length += begin + length < all.size() ? character_length(all[begin + length]) : 1) {
      const auto found = normal_.find(all.substr(begin, length));
      if (found == normal_.end()) continue;
      offer(length, vocabulary_.pieces[static_cast<size_t>(found->second)].score, found->second);
      known = known || length == character;
    }
    if (!known) offer(character, unknown_score_, -1);
  }
  std::vector<std::pair<std::string_view, int32_t>> path;
  for (size_t end = all.size(); end > 0; end = best[end].begin) {
    path.emplace_back(all.substr(best[end].begin, end - best[end].begin), best[end].id);
  }
  bool after_unknown = false;
  for (auto step = path.rbegin(); step != path.rend(); ++step) {
    const bool unknown = step->second < 0;
    if (!unknown) {
      ids.push_back(step->second);
    } else if (!bytes_.empty() || !after_unknown) {  // several in a row are one
      append_unknown(step->first, ids);
    }
    after_unknown = unknown;
  }
}

void UnigramTokenizer::append_unknown(std::string_view character, std::vector<int32_t>& ids) const {
  if (bytes_.empty()) return ids.push_back(vocabulary_.unknown);
  for (const char c : character) ids.push_back(bytes_[static_cast<unsigned char>(c)]);
}

int64_t UnigramTokenizer::encode_padded(std::string_view text, int64_t length,
                                        std::vector<int32_t>& ids) const {
  require(length >= 1, ErrorKind::invalid_argument,
          "[tokenizer] max_length must be at least 1, got ", length);
  ids = encode(text);
  if (static_cast<int64_t>(ids.size()) >= length) ids.resize(static_cast<size_t>(length - 1));
  ids.push_back(vocabulary_.eos);
  const auto used = static_cast<int64_t>(ids.size());
  ids.resize(static_cast<size_t>(length), vocabulary_.pad);
  return used;
}

}  // namespace sdcore
