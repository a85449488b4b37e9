// Prompts as T5 models were trained on them: captions found on the web, cleaned.
//
// The rules are DeepFloyd IF's (deep-floyd/IF, t5.py), which PixArt's makers and diffusers took
// over as `clean_caption`. They are applied twice, and between the two halves below markup is taken
// out: python/sdcore/prompts/captions.py has a parser for that. Text in a wrong encoding, which
// nobody types, is left alone.
#pragma once

#include <string>
#include <string_view>

namespace sdcore {

// In small letters, what %20 and + stand for in place of them, and without links.
std::string without_links(std::string_view caption);

// Without odd signs, file names, numbers of articles and what else is no description.
std::string without_noise(std::string_view caption);

// All of it; throws Error(invalid_argument) where there is markup, such as <b> or &amp;.
std::string clean_caption(std::string_view caption);

}  // namespace sdcore
