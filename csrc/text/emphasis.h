// Weights in a prompt, in the words of A1111's web UI.
//
//   (a)       a, times 1.1; ((a)) times 1.21
//   [a]       a, divided by 1.1
//   (a:1.3)   a, times 1.3
//   \( \) \[ \] \\   the signs themselves
//   BREAK     what follows goes into a chunk of its own
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sdcore {

// Text under one weight. `section` counts the BREAKs before it.
struct PromptPiece {
  std::string text;
  double weight = 1.0;
  int64_t section = 0;
};

// The pieces of a prompt in UTF-8, at least one; neighbours that differ in nothing are one piece. A
// bracket that is never closed counts to the end.
std::vector<PromptPiece> parse_emphasis(std::string_view prompt);

}  // namespace sdcore
