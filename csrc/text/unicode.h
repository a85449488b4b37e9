// As much of Unicode as a tokenizer needs, in the versions that the `tokenizers` library has.
#pragma once

#include <string>
#include <string_view>

namespace sdcore::unicode {

// What is not UTF-8 becomes U+FFFD, one for each maximal part of a sequence (as browsers and Python
// do).
std::u32string decode(std::string_view utf8);
void append_utf8(char32_t c, std::string& out);

bool is_letter(char32_t c);  // category L
bool is_number(char32_t c);  // category N
bool is_space(char32_t c);   // White_Space

// Canonical composition (normalization form C).
std::u32string nfc(std::u32string_view text);

// Lower case of each code point by itself: a final sigma is a sigma like any other.
std::u32string lower(std::u32string_view text);

}  // namespace sdcore::unicode
