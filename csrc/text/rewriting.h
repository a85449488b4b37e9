// Search and replacement by a pattern: as much of Python's regular expressions as the rules for
// captions need (caption_cleaning.cpp), with Python's meaning.
//
//   x  \.  [a-z\w]              a character, or one of a set
//   \d \D \s \S \w \W  \uXXXX  digits, spaces, what words are made of; a code point
//   x* x+ x{2} x{2,} x{2,5} x?  repeats, the longest first; of a group only ?
//   (…|…) (?:…|…)              one of several, kept or not
//   (?<!x) (?!x)                not after, not before a character
//   \b ^ $                      the edge of a word, begin, end or before a last line break
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace sdcore {

class Rewriting {
 public:
  // `pattern` in UTF-8, which cannot match nothing; `into` may begin with \1, what the kept group
  // matched. Both are the program's own: a wrong one throws Error(invalid_argument).
  Rewriting(std::string_view pattern, std::string_view into);

  // The text with every match replaced, from left to right, in time linear in its length.
  std::u32string apply(std::u32string_view text) const;

 private:
  struct Pattern;
  std::shared_ptr<const Pattern> pattern_;
  bool keeps_ = false;  // the group, before into_
  std::u32string into_;
};

bool is_python_space(char32_t c);  // str.isspace()

}  // namespace sdcore
