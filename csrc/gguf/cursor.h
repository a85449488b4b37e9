// Reads numbers, strings and arrays one after another, never past the end.
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/mapped_file.h"
#include "gguf/format.h"
#include "quant/format.h"

namespace sdcore::gguf {

class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file) {}

  // Set from the version, which is the first number.
  ByteOrder order = kNativeOrder;
  bool wide = true;  // lengths and counts have 64 bits

  size_t position() const { return position_; }
  size_t remaining() const { return file_.size() - position_; }

  // Refuses the file: where, and why.
  template <class... Reason>
  [[noreturn]] void refuse(const Reason&... reason) const {
    fail(ErrorKind::checkpoint, "[gguf] '", file_.path(), "' at byte ", position_, ": ", reason...);
  }

  std::string_view bytes(uint64_t count) {
    if (count > remaining()) refuse(count, " bytes should follow, but ", remaining(), " are left");
    const auto* begin = reinterpret_cast<const char*>(file_.data()) + position_;
    position_ += count;
    return {begin, count};
  }

  template <class Number>
  Number number() {
    Number value;
    std::memcpy(&value, bytes(sizeof(value)).data(), sizeof(value));
    return order == kNativeOrder ? value : quant::swapped(value);
  }

  uint64_t length() { return wide ? number<uint64_t>() : number<uint32_t>(); }

  // How many things follow, each of at least so many bytes: so a count that the rest of the file
  // cannot hold is refused before anything is allocated for it.
  uint64_t count(size_t bytes_each, const char* of_what) {
    const uint64_t claimed = length();
    if (claimed > remaining() / bytes_each) {
      refuse(claimed, " ", of_what, " cannot fit into the ", remaining(), " bytes that are left");
    }
    return claimed;
  }

  std::string string() { return std::string(bytes(length())); }

  Value value(uint32_t type) { return value_of<0>(type); }

 private:
  static constexpr int kDeepest = 8;

  template <size_t index>
  Value value_of(uint32_t type) {
    if constexpr (index == kTypes) {
      refuse("values have no type ", type);
    } else {
      if (type != index) return value_of<index + 1>(type);
      return Value(std::in_place_index<index>, one<std::variant_alternative_t<index, Value>>(0));
    }
  }

  template <class T>
  T one(int depth) {
    if constexpr (std::is_same_v<T, bool>) {
      return number<uint8_t>() != 0;
    } else if constexpr (std::is_same_v<T, std::string>) {
      return string();
    } else if constexpr (std::is_same_v<T, Array>) {
      if (depth == kDeepest) refuse("arrays are nested more than ", kDeepest, " deep");
      const auto type = number<uint32_t>();
      return array_of<0>(type, depth + 1);
    } else {
      return number<T>();
    }
  }

  template <size_t index>
  Array array_of(uint32_t type, int depth) {
    if constexpr (index == kTypes) {
      refuse("arrays have no element type ", type);
    } else {
      if (type != index) return array_of<index + 1>(type, depth);
      using Item = std::variant_alternative_t<index, Value>;
      Array array;
      array.items.template emplace<index>(items<Item>(depth));
      return array;
    }
  }

  template <class Item>
  std::vector<Item> items(int depth) {
    const size_t length_bytes = wide ? 8 : 4;
    const size_t least = std::is_same_v<Item, std::string> ? length_bytes
                         : std::is_same_v<Item, Array>     ? 4 + length_bytes
                                                           : sizeof(Item);
    const uint64_t n = count(least, "array elements");
    std::vector<Item> found;
    found.reserve(n);
    for (uint64_t i = 0; i < n; ++i) found.push_back(one<Item>(depth));
    return found;
  }

  const MappedFile& file_;
  size_t position_ = 0;
};

}  // namespace sdcore::gguf
