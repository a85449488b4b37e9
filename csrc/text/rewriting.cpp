#include "text/rewriting.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/unicode.h"

namespace sdcore {
namespace {

// Zeros of the decimal digits, ten of which follow one another (category Nd).
constexpr char32_t kZeros[] = {
    0x30,    0x660,   0x6f0,   0x7c0,   0x966,   0x9e6,   0xa66,   0xae6,   0xb66,   0xbe6,
    0xc66,   0xce6,   0xd66,   0xde6,   0xe50,   0xed0,   0xf20,   0x1040,  0x1090,  0x17e0,
    0x1810,  0x1946,  0x19d0,  0x1a80,  0x1a90,  0x1b50,  0x1bb0,  0x1c40,  0x1c50,  0xa620,
    0xa8d0,  0xa900,  0xa9d0,  0xa9f0,  0xaa50,  0xabf0,  0xff10,  0x104a0, 0x10d30, 0x11066,
    0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0,
    0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2,
    0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0};

bool is_digit(char32_t c) {
  const auto* after = std::upper_bound(std::begin(kZeros), std::end(kZeros), c);
  return after != std::begin(kZeros) && c - *std::prev(after) < 10;
}

bool is_word(char32_t c) { return c == U'_' || unicode::is_letter(c) || unicode::is_number(c); }

bool is_class(char32_t name, char32_t c) {
  switch (name) {
    case U'd':
      return is_digit(c);
    case U's':
      return is_python_space(c);
    default:
      return is_word(c);
  }
}

constexpr size_t kEndless = std::numeric_limits<size_t>::max();

struct Set {
  std::vector<std::pair<char32_t, char32_t>> ranges;
  std::u32string classes;  // small letters, or large ones for all others

  bool holds(char32_t c) const {
    for (const auto& [first, last] : ranges) {
      if (first <= c && c <= last) return true;
    }
    return std::any_of(classes.begin(), classes.end(), [c](char32_t name) {
      const bool is_large = name < U'a';
      return is_class(is_large ? name + 32 : name, c) != is_large;
    });
  }
};

struct Node;
using Sequence = std::vector<Node>;

struct Node {
  enum class Kind { set, group, edge, begin, end, not_after, not_before };
  Kind kind;
  Set set = {};
  size_t least = 1, most = 1;
  size_t run = 0;                   // of a set that repeats without end: its number among those
  std::vector<Sequence> ways = {};  // of a group
  bool kept = false;
};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : text_(unicode::decode(pattern)) {}

  std::vector<Sequence> ways() {
    std::vector<Sequence> all(1);
    while (!done() && text_[at_] != U')') {
      if (take(U"|")) {
        all.emplace_back();
      } else {
        all.back().push_back(repeated(one()));
      }
    }
    return all;
  }
  bool done() const { return at_ == text_.size(); }
  size_t runs() const { return runs_; }  // sets that repeat without end

 private:
  bool take(std::u32string_view what) {
    const bool is_next = std::u32string_view(text_).substr(at_).starts_with(what);
    if (is_next) at_ += what.size();
    return is_next;
  }
  char32_t next() {
    require(!done(), ErrorKind::invalid_argument, "[rewriting] a pattern ends too early");
    return text_[at_++];
  }

  Node one() {
    if (take(U"^")) return {Node::Kind::begin};
    if (take(U"$")) return {Node::Kind::end};
    if (take(U"\\b")) return {Node::Kind::edge};
    if (take(U"(?<!")) return around(Node::Kind::not_after);
    if (take(U"(?!")) return around(Node::Kind::not_before);
    if (take(U"(?:")) return group(false);
    if (take(U"(")) return group(true);
    Node node{Node::Kind::set};
    if (!take(U"[")) {
      character(node.set);
      return node;
    }
    while (!take(U"]")) member(node.set);
    return node;
  }

  Node around(Node::Kind kind) {
    Node node = one();
    node.kind = kind;
    close();
    return node;
  }

  Node group(bool kept) {
    Node node{Node::Kind::group};
    node.ways = ways();
    node.kept = kept;
    close();
    return node;
  }

  void close() {
    require(take(U")"), ErrorKind::invalid_argument, "[rewriting] a group is not closed");
  }

  // Of a set, or a range of them.
  void member(Set& set) {
    if (!character(set) || !take(U"-")) return;
    if (text_[at_] == U']') {
      set.ranges.emplace_back(U'-', U'-');
      return;
    }
    const char32_t first = set.ranges.back().first;
    require(character(set), ErrorKind::invalid_argument, "[rewriting] a range has no end");
    const char32_t last = set.ranges.back().first;
    set.ranges.pop_back();
    set.ranges.back() = {first, last};
  }

  // False for a class.
  bool character(Set& set) {
    char32_t c = next();
    if (c == U'\\') {
      c = next();
      if (std::u32string_view(U"dDsSwW").find(c) != std::u32string_view::npos) {
        set.classes += c;
        return false;
      }
      if (c == U'u') c = code_point();
    }
    set.ranges.emplace_back(c, c);
    return true;
  }

  char32_t code_point() {
    char32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char32_t digit = next();
      value = value * 16 + (digit <= U'9' ? digit - U'0' : digit - U'a' + 10);
    }
    return value;
  }

  Node repeated(Node node) {
    if (take(U"?")) {
      node.least = 0;
    } else if (take(U"*")) {
      node.least = 0, node.most = kEndless;
    } else if (take(U"+")) {
      node.most = kEndless;
    } else if (take(U"{")) {
      node.least = node.most = number();
      if (take(U",")) node.most = text_[at_] == U'}' ? kEndless : number();
      require(take(U"}"), ErrorKind::invalid_argument, "[rewriting] a { is not closed");
    }
    require(node.kind == Node::Kind::set || node.most == 1, ErrorKind::invalid_argument,
            "[rewriting] only characters repeat");
    if (node.most == kEndless) node.run = runs_++;
    return node;
  }

  size_t number() {
    size_t value = 0;
    while (!done() && is_digit(text_[at_])) value = value * 10 + (next() - U'0');
    return value;
  }

  std::u32string text_;
  size_t at_ = 0;
  size_t runs_ = 0;
};

// Where the characters of a set that repeats without end follow one another, and what has been
// tried there. What comes after the set matches at a place or does not, wherever the match began,
// so no place is tried twice: a search takes as long as the text is long, whatever it says.
class Runs {
 public:
  // Where the run that holds `at` ends; `at` itself where none does.
  size_t end(const Set& set, std::u32string_view text, size_t at) {
    if (ends_.empty()) {
      ends_.assign(text.size() + 1, kEndless);
      ends_.back() = text.size();
      failed_from_.resize(text.size() + 1);
      for (size_t i = 0; i <= text.size(); ++i) failed_from_[i] = i + 1;
    }
    size_t unknown = at;
    while (ends_[unknown] == kEndless && set.holds(text[unknown])) ++unknown;
    if (ends_[unknown] == kEndless) ends_[unknown] = unknown;
    const size_t end = ends_[unknown];
    std::fill(ends_.begin() + static_cast<ptrdiff_t>(at),
              ends_.begin() + static_cast<ptrdiff_t>(unknown), end);
    return end;
  }

  // From here to the end of the run, nothing that comes after the set matches.
  size_t& failed_from(size_t end) { return failed_from_[end]; }

 private:
  std::vector<size_t> ends_;         // by place; kEndless where nobody looked
  std::vector<size_t> failed_from_;  // by the end of a run
};

// What comes after a sequence: the rest of the one around it.
struct Rest {
  const Sequence& sequence;
  size_t index;
  const Rest* rest;
  size_t kept_from;  // where the group that ends here began, if it is kept
};

struct Match {
  size_t end = 0, kept_begin = 0, kept_end = 0;
};

class Matcher {
 public:
  Matcher(std::u32string_view text, size_t runs) : text_(text), runs_(runs) {}

  bool match(const std::vector<Sequence>& ways, size_t at, Match& found) {
    found_ = {};
    for (const Sequence& way : ways) {
      if (run(way, 0, at, nullptr)) {
        found = found_;
        return true;
      }
    }
    return false;
  }

 private:
  bool run(const Sequence& sequence, size_t index, size_t at, const Rest* rest) {
    if (index == sequence.size()) return leave(at, rest);
    const Node& node = sequence[index];
    if (node.kind == Node::Kind::set) return run_set(sequence, index, at, rest);
    if (node.kind == Node::Kind::group) {
      const Rest after{sequence, index + 1, rest, node.kept ? at : kEndless};
      for (const Sequence& way : node.ways) {
        if (run(way, 0, at, &after)) return true;
      }
      return node.least == 0 && run(sequence, index + 1, at, rest);
    }
    return holds(node, at) && run(sequence, index + 1, at, rest);
  }

  bool leave(size_t at, const Rest* rest) {
    if (rest == nullptr) {
      found_.end = at;
      return true;
    }
    if (!run(rest->sequence, rest->index, at, rest->rest)) return false;
    if (rest->kept_from != kEndless) {
      found_.kept_begin = rest->kept_from;
      found_.kept_end = at;
    }
    return true;
  }

  bool run_set(const Sequence& sequence, size_t index, size_t at, const Rest* rest) {
    const Node& node = sequence[index];
    if (node.most == kEndless) return run_endless(sequence, index, at, rest);
    size_t count = 0;
    while (count < node.most && at + count < text_.size() && node.set.holds(text_[at + count])) {
      ++count;
    }
    for (size_t n = count + 1; n-- > node.least;) {
      if (run(sequence, index + 1, at + n, rest)) return true;
    }
    return false;
  }

  bool run_endless(const Sequence& sequence, size_t index, size_t at, const Rest* rest) {
    const Node& node = sequence[index];
    Runs& runs = runs_[node.run];
    size_t& failed_from = runs.failed_from(runs.end(node.set, text_, at));
    for (; failed_from > at + node.least; --failed_from) {
      if (run(sequence, index + 1, failed_from - 1, rest)) return true;
    }
    return false;
  }

  bool holds(const Node& node, size_t at) const {
    const bool at_end = at == text_.size();
    switch (node.kind) {
      case Node::Kind::begin:
        return at == 0;
      case Node::Kind::end:
        return at_end || (at + 1 == text_.size() && text_[at] == U'\n');
      case Node::Kind::not_after:
        return at == 0 || !node.set.holds(text_[at - 1]);
      case Node::Kind::not_before:
        return at_end || !node.set.holds(text_[at]);
      default: {
        const bool before = at > 0 && is_word(text_[at - 1]);
        return before != (!at_end && is_word(text_[at]));
      }
    }
  }

  std::u32string_view text_;
  std::vector<Runs> runs_;  // by Node::run
  Match found_;
};

}  // namespace

struct Rewriting::Pattern {
  std::vector<Sequence> ways;
  size_t runs;
};

Rewriting::Rewriting(std::string_view pattern, std::string_view into)
    : keeps_(into.starts_with("\\1")) {
  Parser parser(pattern);
  std::vector<Sequence> ways = parser.ways();
  pattern_ = std::make_shared<const Pattern>(Pattern{std::move(ways), parser.runs()});
  require(parser.done(), ErrorKind::invalid_argument, "[rewriting] a group is not open");
  into_ = unicode::decode(keeps_ ? into.substr(2) : into);
}

std::u32string Rewriting::apply(std::u32string_view text) const {
  std::u32string out;
  Matcher matcher(text, pattern_->runs);
  Match found;
  for (size_t at = 0; at < text.size();) {
    if (!matcher.match(pattern_->ways, at, found) || found.end == at) {
      out += text[at++];
      continue;
    }
    if (keeps_) out += text.substr(found.kept_begin, found.kept_end - found.kept_begin);
    out += into_;
    at = found.end;
  }
  return out;
}

bool is_python_space(char32_t c) { return unicode::is_space(c) || (c >= 0x1c && c <= 0x1f); }

}  // namespace sdcore
