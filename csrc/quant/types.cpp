#include "quant/types.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "quant/formats.h"

namespace sdcore {
namespace {

template <class Format>
constexpr TypeInfo describe(Type type, const char* name) {
  using Block = typename Format::Block;
  TypeInfo info{};
  info.type = type;
  info.name = name;
  info.block_size = Format::block_size;
  info.block_bytes = sizeof(Block);
  if constexpr (quant::Dequantizes<Format>) {
    info.to_float = [](const void* blocks, float* out, int64_t n) {
      auto* block = static_cast<const Block*>(blocks);
      for (int64_t i = 0; i < n; i += Format::block_size) Format::dequantize(*block++, out + i);
    };
  }
  if constexpr (quant::Quantizes<Format>) {
    info.from_float = [](const float* values, const float*, void* blocks, int64_t n) {
      auto* block = static_cast<Block*>(blocks);
      for (int64_t i = 0; i < n; i += Format::block_size) Format::quantize(values + i, *block++);
    };
  } else if constexpr (quant::Weighs<Format>) {
    info.weighs = true;
    info.from_float = [](const float* values, const float* importance, void* blocks, int64_t n) {
      auto* block = static_cast<Block*>(blocks);
      for (int64_t i = 0; i < n; i += Format::block_size) {
        Format::quantize(values + i, importance ? importance + i : nullptr, *block++);
      }
    };
  }
  info.offsets = quant::ScalesAndShifts<Format>;
  if constexpr (quant::Scales<Format> || quant::ScalesAndShifts<Format>) {
    info.most_integer = Format::most_integer;
  }
  if constexpr (quant::ScalesAndShifts<Format>) {
    info.to_integers = [](const void* blocks, int8_t* integers, float* scales, float* offsets,
                          int64_t n) {
      auto* block = static_cast<const Block*>(blocks);
      for (int64_t i = 0; i < n; i += Format::block_size) {
        Format::integers(*block++, integers + i, scales + i / 32, offsets + i / 32);
      }
    };
  } else if constexpr (quant::Scales<Format>) {
    info.to_integers = [](const void* blocks, int8_t* integers, float* scales, float*, int64_t n) {
      auto* block = static_cast<const Block*>(blocks);
      for (int64_t i = 0; i < n; i += Format::block_size) {
        Format::integers(*block++, integers + i, scales + i / 32);
      }
    };
  }
  info.swap_bytes = [](void* blocks, int64_t n) {
    auto* block = static_cast<Block*>(blocks);
    for (int64_t i = 0; i < n; i += Format::block_size) Format::swap(*block++);
  };
  return info;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace

const std::vector<TypeInfo>& all_types() {
  static const std::vector<TypeInfo> types = {
#define SDCORE_TYPE(id, name, traits) describe<quant::traits>(Type::name, #name),
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
  };
  return types;
}

const TypeInfo* find_type(uint32_t ggml_id) {
  for (const TypeInfo& info : all_types()) {
    if (static_cast<uint32_t>(info.type) == ggml_id) return &info;
  }
  return nullptr;
}

const TypeInfo* find_type(std::string_view name) {
  for (const TypeInfo& info : all_types()) {
    if (same_name(info.name, name)) return &info;
  }
  return nullptr;
}

const TypeInfo& type_info(Type type) {
  const TypeInfo* info = find_type(static_cast<uint32_t>(type));
  require(info != nullptr, ErrorKind::internal, "[type] unknown number ",
          static_cast<uint32_t>(type));
  return *info;
}

int64_t storage_bytes(Type type, const Shape& shape) {
  const TypeInfo& info = type_info(type);
  const int64_t count = element_count(shape);
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (count < 0 || row % info.block_size != 0) return -1;
  const int64_t blocks = count / info.block_size;
  if (blocks > std::numeric_limits<int64_t>::max() / info.block_bytes) return -1;
  return blocks * info.block_bytes;
}

}  // namespace sdcore
