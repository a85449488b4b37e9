#include "gguf/writer.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/buffer.h"
#include "base/error.h"
#include "gguf/output_file.h"
#include "quant/format.h"

namespace sdcore::gguf {
namespace {

constexpr uint32_t kVersion = 3;
constexpr size_t kMostAxes = 4;  // ggml reads no more

// Builds the header in memory.
class Encoder {
 public:
  explicit Encoder(ByteOrder order) : swap_(order != kNativeOrder) {}
  const std::string& bytes() const { return bytes_; }

  template <class Number>
  void number(Number value) {
    if (swap_) value = quant::swapped(value);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void raw(std::string_view text) { bytes_ += text; }
  void item(const std::string& text) {
    number(uint64_t{text.size()});
    bytes_ += text;
  }
  void item(bool value) { number(uint8_t{value}); }
  void item(const Array& array) {
    number(static_cast<uint32_t>(array.items.index()));
    std::visit(
        [this]<class Item>(const std::vector<Item>& items) {
          number(uint64_t{items.size()});
          for (const Item& each : items) item(each);
        },
        array.items);
  }
  template <class Number>
    requires std::is_arithmetic_v<Number>
  void item(Number value) {
    number(value);
  }
  void value(const Value& value) {
    number(static_cast<uint32_t>(value.index()));
    std::visit([this](const auto& held) { item(held); }, value);
  }

 private:
  bool swap_;
  std::string bytes_;
};

void check(const Metadata& metadata, const std::vector<NamedTensor>& tensors) {
  std::unordered_set<std::string_view> keys, names;
  for (const auto& [key, value] : metadata) {
    require(!key.empty(), ErrorKind::invalid_argument, "[gguf] a key of the metadata has no name");
    require(keys.insert(key).second, ErrorKind::invalid_argument, "[gguf] the key '",
            printable(key), "' occurs twice");
  }
  for (const auto& [name, tensor] : tensors) {
    require(names.insert(name).second, ErrorKind::invalid_argument, "[gguf] tensor '",
            printable(name), "' occurs twice");
    require(tensor.shape.size() <= kMostAxes, ErrorKind::invalid_argument, "[gguf] tensor '",
            printable(name), "' has ", tensor.shape.size(), " axes, but GGUF holds at most ",
            kMostAxes);
    require(tensor.bytes() >= 0, ErrorKind::invalid_argument, "[gguf] tensor '", printable(name),
            "' of type ", type_info(tensor.type).name, " cannot have sizes ",
            to_string(tensor.shape));
  }
}

uint64_t checked_alignment(const Metadata& metadata) {
  const uint64_t boundary = alignment(metadata);
  require(boundary != 0, ErrorKind::invalid_argument,
          "[gguf] general.alignment must be a u32 that is a power of two");
  return boundary;
}

std::string encode_header(const Metadata& metadata, const std::vector<NamedTensor>& tensors,
                          ByteOrder order, size_t boundary) {
  Encoder encoder(order);
  encoder.raw("GGUF");
  encoder.number(kVersion);
  encoder.number(uint64_t{tensors.size()});
  encoder.number(uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    encoder.item(key);
    encoder.value(value);
  }
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    encoder.item(name);
    encoder.number(static_cast<uint32_t>(tensor.shape.size()));
    std::for_each(tensor.shape.rbegin(), tensor.shape.rend(),
                  [&](int64_t size) { encoder.number(size); });
    encoder.number(static_cast<uint32_t>(tensor.type));
    encoder.number(offset);
    offset = align_up(offset + static_cast<uint64_t>(tensor.bytes()), boundary);
  }
  return encoder.bytes() +
         std::string(align_up(encoder.bytes().size(), boundary) - encoder.bytes().size(), '\0');
}

void pad(OutputFile& out, size_t written, size_t boundary) {
  constexpr char kZeros[4096] = {};
  for (size_t left = align_up(written, boundary) - written; left > 0;) {
    const size_t part = std::min(left, sizeof(kZeros));
    out.write(kZeros, part);
    left -= part;
  }
}

void write_data(OutputFile& out, const Tensor& tensor, ByteOrder order) {
  if (order == kNativeOrder) {
    out.write(tensor.data, static_cast<size_t>(tensor.bytes()));
    return;
  }
  const TypeInfo& info = type_info(tensor.type);
  const int64_t blocks = tensor.elements() / info.block_size, most = 65536 / info.block_bytes;
  const Buffer part(65536);
  for (int64_t first = 0; first < blocks; first += most) {
    const int64_t count = std::min(most, blocks - first);
    const auto bytes = static_cast<size_t>(count * info.block_bytes);
    std::memcpy(part.data(), static_cast<const std::byte*>(tensor.data) + first * info.block_bytes,
                bytes);
    info.swap_bytes(part.data(), count * info.block_size);
    out.write(part.data(), bytes);
  }
}

}  // namespace

std::string header(const Metadata& metadata, const std::vector<NamedTensor>& tensors,
                   ByteOrder order) {
  check(metadata, tensors);
  return encode_header(metadata, tensors, order, checked_alignment(metadata));
}

void write(const std::filesystem::path& path, const Metadata& metadata,
           const std::vector<NamedTensor>& tensors, ByteOrder order) {
  const std::string head = header(metadata, tensors, order);
  const uint64_t boundary = checked_alignment(metadata);
  OutputFile out(path);
  out.write(head.data(), head.size());
  for (const auto& [name, tensor] : tensors) {
    write_data(out, tensor, order);
    pad(out, static_cast<size_t>(tensor.bytes()), boundary);
  }
  out.commit();
}

}  // namespace sdcore::gguf
