#include "text/caption_cleaning.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/error.h"
#include "text/rewriting.h"
#include "text/unicode.h"

namespace sdcore {
namespace {

// More than the longest text that is read (512 tokens), and little enough for every rule.
constexpr size_t kMostCharacters = 5000;

#define SDCORE_FILES "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
#define SDCORE_SITE R"([a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))"

using Rules = std::vector<Rewriting>;

const Rules& links() {
  static const Rules rules{
      {"<person>", "person"},
      {R"(\b(https?:(?:/{1,3}|[a-zA-Z0-9%])|)" SDCORE_SITE ")", ""},
      {R"(\b(www:(?:/{1,3}|[a-zA-Z0-9%])|)" SDCORE_SITE ")", ""},
  };
  return rules;
}

const Rules& signs() {
  static const Rules rules{
      {R"(@[\w\d]+\b)", ""},  // somebody's name
      // Strokes, phonetic extensions, enclosed and compatible letters, ideographs, hexagrams.
      {R"([\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u9fff]+)", ""},
      {R"([\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030)"
       R"(\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+)",
       "-"},
      {"[`´«»“”¨]", "\""},
      {"[‘’]", "'"},
      {"&quot;?", ""},
      {"&amp", ""},
      {R"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})", " "},  // an address of a machine
      {R"(\d:\d\d\s+$)", ""},
      {R"(\\n)", " "},
      {R"(#\d{1,3}\b)", ""},
      {R"(#\d{5,}\b)", ""},
      {R"(\b\d{6,}\b)", ""},
      {R"((?<!\S)\S+\.(?:)" SDCORE_FILES ")", ""},
      {R"(["']{2,})", "\""},
      {R"([\.]{2,})", " "},
      {R"([#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\\/\*]{1,})", " "},
      {R"(\s+\.\s+)", " "},
  };
  return rules;
}

const Rules& words() {
  static const Rules rules{
      {R"(\b[a-zA-Z]{1,3}\d{3,15}\b)", ""},  // numbers of articles
      {R"(\b[a-zA-Z]+\d+[a-zA-Z]+\b)", ""},
      {R"(\b\d+[a-zA-Z]+\d+\b)", ""},
      {R"((worldwide\s+)?(free\s+)?shipping)", ""},
      {R"((free\s)?download(\sfree)?)", ""},
      {R"(\bclick\b\s(?:for|on)\s\w+)", ""},
      {R"(\b(?:)" SDCORE_FILES R"()(\simage[s]?)?)", ""},
      {R"(\bpage\s+\d+\b)", ""},
      {R"(\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b)", " "},
      {R"(\b\d+\.?\d*[xх×]\d+\.?\d*\b)", ""},
      {R"(\b\s+\:\s+)", ": "},
      {R"((\D[,\./])\b)", "\\1 "},
      {R"(\s+)", " "},
      {R"(^["']([\w\W]+)["']$)", "\\1"},
      {R"(^[\'_,\-\:;])", ""},
      {R"([\'_,\-\:\-\+]$)", ""},
      {R"(^\.\S+$)", ""},
  };
  return rules;
}

std::u32string apply(const Rules& rules, std::u32string text) {
  for (const Rewriting& rule : rules) text = rule.apply(text);
  return text;
}

std::u32string_view stripped(std::u32string_view text) {
  while (!text.empty() && is_python_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_python_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string to_utf8(std::u32string_view text) {
  std::string utf8;
  for (const char32_t c : text) unicode::append_utf8(c, utf8);
  return utf8;
}

int hex_value(char32_t c) {
  if (c >= U'0' && c <= U'9') return static_cast<int>(c - U'0');
  if (c >= U'a' && c <= U'f') return static_cast<int>(c - U'a') + 10;
  if (c >= U'A' && c <= U'F') return static_cast<int>(c - U'A') + 10;
  return -1;
}

// What %C3%A9 stands for: bytes of UTF-8, which end where other text than ASCII begins.
std::u32string unquoted(std::u32string_view text) {
  std::u32string out;
  std::string bytes;
  const auto flush = [&] {
    out += unicode::decode(bytes);
    bytes.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    if (c >= 0x80) {
      flush();
      out += c;
    } else if (c == U'%' && i + 2 < text.size() && hex_value(text[i + 1]) >= 0 &&
               hex_value(text[i + 2]) >= 0) {
      bytes += static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
      i += 2;
    } else {
      bytes += c == U'+' ? ' ' : static_cast<char>(c);
    }
  }
  flush();
  return out;
}

// Entities of HTML that need no semicolon, in small letters.
constexpr std::string_view kEntities[] = {
    "aacute", "acirc",  "acute",  "aelig",  "agrave", "amp",    "aring",  "atilde", "auml",
    "brvbar", "ccedil", "cedil",  "cent",   "copy",   "curren", "deg",    "divide", "eacute",
    "ecirc",  "egrave", "eth",    "euml",   "frac12", "frac14", "frac34", "gt",     "iacute",
    "icirc",  "iexcl",  "igrave", "iquest", "iuml",   "laquo",  "lt",     "macr",   "micro",
    "middot", "nbsp",   "not",    "ntilde", "oacute", "ocirc",  "ograve", "ordf",   "ordm",
    "oslash", "otilde", "ouml",   "para",   "plusmn", "pound",  "quot",   "raquo",  "reg",
    "sect",   "shy",    "sup1",   "sup2",   "sup3",   "szlig",  "thorn",  "times",  "uacute",
    "ucirc",  "ugrave", "uml",    "uuml",   "yacute", "yen",    "yuml"};

// Whether &amp; or the like begins with what follows an &.
bool is_entity(std::string_view rest) {
  constexpr std::string_view kEnds("\t\n\f <&#;", 8);
  constexpr size_t kLongest = 32;
  if (rest.starts_with('#')) return true;
  const std::string_view start = rest.substr(0, kLongest + 1);
  const size_t end = start.find_first_of(kEnds);
  if (end != std::string_view::npos && end > 0 && start[end] == ';') return true;
  return std::any_of(std::begin(kEntities), std::end(kEntities),
                     [rest](std::string_view name) { return rest.starts_with(name); });
}

// What a parser of HTML would take out or replace.
bool has_markup(std::string_view text) {
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const char next = text[i + 1];
    const bool is_tag = (next >= 'a' && next <= 'z') || next == '/' || next == '!' || next == '?';
    if (text[i] == '<' && is_tag) return true;
    if (text[i] == '&' && is_entity(text.substr(i + 1))) return true;
  }
  return false;
}

std::string cleaned_once(std::string_view caption) {
  const std::string text = without_links(caption);
  require(!has_markup(text), ErrorKind::invalid_argument,
          "[generate] the prompt has markup, such as <b> or &amp;, which only Python takes out of "
          "captions: write it without");
  return without_noise(text);
}

}  // namespace

std::string without_links(std::string_view caption) {
  const std::u32string text = unquoted(unicode::decode(caption));
  return to_utf8(apply(links(), unicode::lower(stripped(text))));
}

std::string without_noise(std::string_view caption) {
  std::u32string text = apply(signs(), unicode::decode(caption));
  const auto joins = [](char32_t c) { return c == U'-' || c == U'_'; };
  if (std::count_if(text.begin(), text.end(), joins) > 3) {  // this-is-my-cute-cat
    std::replace_if(text.begin(), text.end(), joins, U' ');
  }
  return to_utf8(stripped(apply(words(), std::move(text))));
}

std::string clean_caption(std::string_view caption) {
  const std::u32string text = unicode::decode(caption).substr(0, kMostCharacters);
  return cleaned_once(cleaned_once(to_utf8(text)));
}

}  // namespace sdcore
