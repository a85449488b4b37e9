#include "text/emphasis.h"

#include <charconv>
#include <optional>

#include "text/unicode.h"

namespace sdcore {
namespace {

constexpr double kRound = 1.1, kSquare = 1 / 1.1;
constexpr std::u32string_view kBreak = U"BREAK";
constexpr size_t kMostDigits = 4;  // before the point of a weight
// Brackets within more of their kind weigh nothing, so that no prompt takes quadratic time: 1.1^100
// is 13781 already.
constexpr size_t kMostNested = 100;

bool is_sign(char32_t c) { return std::u32string_view(U"\\()[]:").find(c) != std::u32string::npos; }
bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }
bool is_word(char32_t c) { return unicode::is_letter(c) || unicode::is_number(c) || c == U'_'; }

std::string utf8(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) unicode::append_utf8(c, out);
  return out;
}

class Parser {
 public:
  explicit Parser(std::u32string_view prompt) : prompt_(prompt) {}

  std::vector<PromptPiece> run() {
    while (at_ < prompt_.size()) next();
    while (!round_.empty()) close(round_, kRound);
    while (!square_.empty()) close(square_, kSquare);
    return joined();
  }

 private:
  void next() {
    const char32_t c = prompt_[at_];
    if (c == U'\\') return escaped();
    if (c == U'(' || c == U'[') {
      (c == U'(' ? round_ : square_).push_back(pieces_.size());
      ++at_;
      return;
    }
    if (c == U':' && !round_.empty()) {
      if (const auto weight = closing_weight()) return close(round_, *weight);
    }
    if (c == U')' && !round_.empty()) return ++at_, close(round_, kRound);
    if (c == U']' && !square_.empty()) return ++at_, close(square_, kSquare);
    size_t end = at_ + 1;  // a sign that closes nothing is a word like any other
    if (!is_sign(c)) {
      while (end < prompt_.size() && !is_sign(prompt_[end])) ++end;
    }
    words(prompt_.substr(at_, end - at_));
    at_ = end;
  }

  // A backslash before no sign stands for nothing.
  void escaped() {
    const bool sign = at_ + 1 < prompt_.size() && is_sign(prompt_[at_ + 1]);
    const bool names = sign && prompt_[at_ + 1] != U':';
    if (names) add(prompt_.substr(at_ + 1, 1));
    at_ += names ? 2 : 1;
  }

  // ": 1.3 )" from here on; what comes after it is next then.
  std::optional<double> closing_weight() {
    size_t i = at_ + 1;
    const auto has = [&](auto test) { return i < prompt_.size() && test(prompt_[i]); };
    const auto skip_spaces = [&] {
      while (has(unicode::is_space)) ++i;
    };
    skip_spaces();
    std::string number;
    if (has([](char32_t c) { return c == U'+' || c == U'-'; })) {
      if (prompt_[i++] == U'-') number += '-';  // from_chars knows no plus
    }
    const auto digits = [&] {
      size_t count = 0;
      for (; has(is_digit); ++count) number += static_cast<char>(prompt_[i++]);
      return count;
    };
    const size_t whole = digits();
    size_t after = 0;
    if (has([](char32_t c) { return c == U'.'; })) {
      number += '.';
      ++i;
      after = digits();
    }
    skip_spaces();
    const bool closes = has([](char32_t c) { return c == U')'; });
    if (!closes || whole > kMostDigits || whole + after == 0) return std::nullopt;
    double weight = 0;
    std::from_chars(number.data(), number.data() + number.size(), weight);
    at_ = i + 1;
    return weight;
  }

  void close(std::vector<size_t>& opened, double factor) {
    if (opened.size() <= kMostNested) {
      for (size_t i = opened.back(); i < pieces_.size(); ++i) pieces_[i].weight *= factor;
    }
    opened.pop_back();
  }

  void add(std::u32string_view text) { pieces_.push_back({utf8(text), 1.0, section_}); }

  // Text without signs, parted where it says BREAK.
  void words(std::u32string_view text) {
    for (size_t from = 0, found; (found = text.find(kBreak, from)) != std::u32string::npos;) {
      const size_t after = found + kBreak.size();
      const bool alone = (found == 0 || !is_word(text[found - 1])) &&
                         (after == text.size() || !is_word(text[after]));
      if (!alone) {
        from = after;
        continue;
      }
      size_t begin = found, end = after;
      while (begin > 0 && unicode::is_space(text[begin - 1])) --begin;
      while (end < text.size() && unicode::is_space(text[end])) ++end;
      add(text.substr(0, begin));
      ++section_;
      text.remove_prefix(end);
      from = 0;
    }
    add(text);
  }

  std::vector<PromptPiece> joined() {
    std::vector<PromptPiece> out;
    for (PromptPiece& piece : pieces_) {
      PromptPiece* last = out.empty() ? nullptr : &out.back();
      if (last && last->weight == piece.weight && last->section == piece.section) {
        last->text += piece.text;
      } else {
        out.push_back(std::move(piece));
      }
    }
    if (out.empty()) out.emplace_back();
    return out;
  }

  std::u32string_view prompt_;
  size_t at_ = 0;
  int64_t section_ = 0;
  std::vector<PromptPiece> pieces_;
  std::vector<size_t> round_, square_;  // where each open bracket's pieces begin
};

}  // namespace

std::vector<PromptPiece> parse_emphasis(std::string_view prompt) {
  const std::u32string text = unicode::decode(prompt);
  return Parser(text).run();
}

}  // namespace sdcore
