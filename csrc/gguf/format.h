// What a GGUF file holds, as the reader gives it and the writer takes it.
//
//   "GGUF", version, number of tensors, number of keys
//   keys:     name, type, value
//   tensors:  name, sizes (innermost first), type, offset from the start of the data
//   padding to general.alignment, then the data of each tensor, padded alike
//
// Lengths and counts have 64 bits (32 in version 1). Every number is in the byte order of the file,
// the numbers inside tensors too.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "quant/types.h"

namespace sdcore::gguf {

enum class ByteOrder { little, big };
inline constexpr ByteOrder kNativeOrder =
    std::endian::native == std::endian::little ? ByteOrder::little : ByteOrder::big;

// In both variants alternative n is what the format numbers n; kTypeNames follows them.
struct Array {
  std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
               std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>,
               std::vector<float>, std::vector<bool>, std::vector<std::string>, std::vector<Array>,
               std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>>
      items;
};
using Value = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                           std::string, Array, uint64_t, int64_t, double>;
inline constexpr size_t kTypes = std::variant_size_v<Value>;
inline constexpr std::array<const char*, kTypes> kTypeNames = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

using Metadata = std::vector<std::pair<std::string, Value>>;  // in the order of the file

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

struct File {
  uint32_t version = 3;
  ByteOrder byte_order = kNativeOrder;
  Metadata metadata;
  std::vector<NamedTensor> tensors;
};

const Value* find(const Metadata& metadata, std::string_view key);  // null: no such key

// What tensor data is aligned to: general.alignment, or 32 where that is absent; 0 where it is not
// a u32 that is a power of two.
uint64_t alignment(const Metadata& metadata);

// Text of a file as an error message may quote it: short, and every odd byte escaped.
std::string printable(std::string_view text);

}  // namespace sdcore::gguf
