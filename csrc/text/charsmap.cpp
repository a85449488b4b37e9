#include "text/charsmap.h"

#include <cstring>

#include "base/error.h"

namespace sdcore {
namespace {

uint32_t little_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return value;
}

// The fields of a unit of the double array.
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1u) != 0; }
uint32_t value_of(uint32_t unit) { return unit & 0x7fffffffu; }
uint32_t label_of(uint32_t unit) { return unit & 0x800000ffu; }
uint32_t offset_of(uint32_t unit) { return unit >> 10 << ((unit & 0x200u) >> 6); }

}  // namespace

Charsmap::Charsmap(std::string_view blob) {
  if (blob.empty()) return;
  const size_t bytes = blob.size() >= 4 ? little_endian(blob, 0) : blob.size();
  require(bytes > 0 && bytes % 4 == 0 && bytes + 4 < blob.size() && blob.back() == '\0',
          ErrorKind::checkpoint, "[tokenizer] precompiled_charsmap is damaged: ", blob.size(),
          " bytes, of which its trie would take ", bytes);
  for (size_t i = 0; i < bytes; i += 4) units_.push_back(little_endian(blob, 4 + i));
  strings_ = blob.substr(4 + bytes);
}

Charsmap::Match Charsmap::find(std::string_view text) const {
  Match best;
  if (units_.empty()) return best;
  size_t node = offset_of(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto label = static_cast<unsigned char>(text[i]);
    node ^= label;
    if (node >= units_.size() || label_of(units_[node]) != label) break;
    const uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const size_t at = value_of(units_[node]);
    if (at < strings_.size()) best = {std::string_view(strings_.c_str() + at), i + 1};
  }
  return best;
}

}  // namespace sdcore
