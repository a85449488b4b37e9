#include "text/unicode.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <unordered_map>

namespace sdcore::unicode {
namespace {

struct Range {
  char32_t first, last;
};
// Every stride-th code point of the range lies `delta` from its lower-case form.
struct CaseRange {
  char32_t first, last;
  int32_t stride, delta;
};
struct MarkRange {
  char32_t first, last;
  int32_t combining_class;
};
struct Decomposition {
  char32_t whole, first, second = 0;
};

#include "text/unicode_tables.inc"

// The row of a sorted table whose range holds c; null if none does.
template <class Row, size_t n>
const Row* find(const Row (&table)[n], char32_t c) {
  const auto after =
      std::upper_bound(std::begin(table), std::end(table), c,
                       [](char32_t value, const Row& row) { return value < row.first; });
  if (after == std::begin(table)) return nullptr;
  const Row* row = std::prev(after);
  return c <= row->last ? row : nullptr;
}

int combining_class(char32_t c) {
  const MarkRange* row = c < 0x300 ? nullptr : find(kCombiningClasses, c);
  return row ? row->combining_class : 0;
}

// Hangul syllables are composed by arithmetic (the Unicode Standard, section 3.12).
constexpr char32_t kHangul = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTrails = 28;
constexpr char32_t kSyllables = kLeads * kVowels * kTrails;

using Decompositions = std::unordered_map<char32_t, Decomposition>;
using Compositions = std::unordered_map<uint64_t, char32_t>;

constexpr uint64_t pair_key(char32_t first, char32_t second) {
  return (uint64_t{first} << 32) | second;
}

const Decompositions& decompositions() {
  static const Decompositions map = [] {
    Decompositions all;
    for (const Decomposition& d : kComposed) all.emplace(d.whole, d);
    for (const Decomposition& d : kDecomposed) all.emplace(d.whole, d);
    return all;
  }();
  return map;
}

const Compositions& compositions() {
  static const Compositions map = [] {
    Compositions all;
    for (const Decomposition& d : kComposed) all.emplace(pair_key(d.first, d.second), d.whole);
    return all;
  }();
  return map;
}

void append_decomposed(char32_t c, std::u32string& out) {
  if (c - kHangul < kSyllables) {
    const char32_t s = c - kHangul;
    out += kLead + s / (kVowels * kTrails);
    out += kVowel + s / kTrails % kVowels;
    if (s % kTrails != 0) out += kTrail + s % kTrails;
    return;
  }
  const auto found = c < 0xC0 ? decompositions().end() : decompositions().find(c);
  if (found == decompositions().end()) {
    out += c;
    return;
  }
  append_decomposed(found->second.first, out);
  if (found->second.second != 0) append_decomposed(found->second.second, out);
}

// What the pair composes to, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first - kLead < kLeads && second - kVowel < kVowels) {
    return kHangul + ((first - kLead) * kVowels + (second - kVowel)) * kTrails;
  }
  if (first - kHangul < kSyllables && (first - kHangul) % kTrails == 0 && second > kTrail &&
      second < kTrail + kTrails) {
    return first + (second - kTrail);
  }
  const auto found = compositions().find(pair_key(first, second));
  return found == compositions().end() ? 0 : found->second;
}

// Marks after a base into the order of their classes; marks of one class stay as they are.
void order_marks(std::u32string& text) {
  const auto is_mark = [](char32_t c) { return combining_class(c) != 0; };
  for (auto i = text.begin(); i != text.end();) {
    const auto first = std::find_if(i, text.end(), is_mark);
    i = std::find_if_not(first, text.end(), is_mark);
    std::stable_sort(
        first, i, [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
  }
}

}  // namespace

std::u32string decode(std::string_view utf8) {
  constexpr char32_t kReplacement = 0xFFFD;
  std::u32string text;
  text.reserve(utf8.size());
  for (size_t i = 0; i < utf8.size();) {
    const auto lead = static_cast<unsigned char>(utf8[i++]);
    if (lead < 0x80) {
      text += lead;
      continue;
    }
    const int more = lead >= 0xC2 && lead <= 0xDF   ? 1
                     : (lead & 0xF0) == 0xE0        ? 2
                     : lead >= 0xF0 && lead <= 0xF4 ? 3
                                                    : 0;
    char32_t c = lead & (0x3Fu >> more);
    // The second byte's bounds keep out overlong forms, surrogates and what lies past U+10FFFF.
    unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    int left = more;
    for (; left > 0 && i < utf8.size(); --left, ++i) {
      const auto byte = static_cast<unsigned char>(utf8[i]);
      if (byte < low || byte > high) break;
      c = (c << 6) | (byte & 0x3Fu);
      low = 0x80, high = 0xBF;
    }
    text += more > 0 && left == 0 ? c : kReplacement;
  }
  return text;
}

void append_utf8(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr unsigned kLeads[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(kLeads[more] | (c >> (6 * more)));
  for (int shift = 6 * (more - 1); shift >= 0; shift -= 6) {
    out += static_cast<char>(0x80u | ((c >> shift) & 0x3Fu));
  }
}

bool is_letter(char32_t c) { return find(kLetters, c) != nullptr; }

bool is_number(char32_t c) { return find(kNumbers, c) != nullptr; }

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::u32string nfc(std::u32string_view text) {
  // Nothing below the combining marks changes, and that is nearly every prompt.
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x300; })) {
    return std::u32string(text);
  }
  std::u32string parts;
  parts.reserve(text.size());
  for (const char32_t c : text) append_decomposed(c, parts);
  order_marks(parts);

  std::u32string out;
  out.reserve(parts.size());
  size_t base = 0;  // of what may still compose: one past it in `out`, or 0 for none
  int last_class = 0;
  for (const char32_t c : parts) {
    const int kind = combining_class(c);
    // A mark of the same or a higher class in between blocks it from the base.
    const bool adjacent = base == out.size();
    const bool blocked = !adjacent && last_class >= kind;
    const char32_t composed = base == 0 || blocked ? 0 : compose(out[base - 1], c);
    if (composed != 0) {
      out[base - 1] = composed;
      continue;
    }
    out += c;
    last_class = kind;
    if (kind == 0) base = out.size();
  }
  return out;
}

std::u32string lower(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (const char32_t c : text) {
    if (c == 0x130) {  // the one capital whose lower-case form is two code points
      out += U"i\u0307";
      continue;
    }
    const CaseRange* row = find(kLowerCase, c);
    const bool upper = row && (c - row->first) % static_cast<char32_t>(row->stride) == 0;
    out += upper ? static_cast<char32_t>(static_cast<int32_t>(c) + row->delta) : c;
  }
  return out;
}

}  // namespace sdcore::unicode
