#include "gguf/format.h"

namespace sdcore::gguf {

const Value* find(const Metadata& metadata, std::string_view key) {
  for (const auto& [name, value] : metadata) {
    if (name == key) return &value;
  }
  return nullptr;
}

uint64_t alignment(const Metadata& metadata) {
  const Value* value = find(metadata, "general.alignment");
  if (!value) return 32;
  const auto* number = std::get_if<uint32_t>(value);
  return number && std::has_single_bit(*number) ? *number : 0;
}

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 100;
  constexpr const char* kHex = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return text.size() > kLongest ? out + "..." : out;
}

}  // namespace sdcore::gguf
