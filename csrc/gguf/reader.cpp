#include "gguf/reader.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/buffer.h"
#include "base/error.h"
#include "gguf/cursor.h"

namespace sdcore::gguf {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kMostAxes = 8;  // ggml knows four; more are harmless

// Formats that ggml keeps for products in memory, so that a sound file is not called damaged.
struct OtherType {
  uint32_t id;
  const char* name;
};
constexpr OtherType kOtherTypes[] = {{9, "q8_1"}, {15, "q8_K"}};

// A tensor as the header describes it.
struct Entry {
  std::string name;
  Shape shape;
  uint32_t type;
  uint64_t offset;  // from the start of the data
};

void read_magic(Cursor& cursor, const MappedFile& file) {
  const std::string_view start(reinterpret_cast<const char*>(file.data()),
                               std::min<size_t>(file.size(), 40));
  if (start.starts_with(kMagic)) {
    cursor.bytes(kMagic.size());
    return;
  }
  const char* hint = start.empty() ? " (it is empty)"
                     : start.starts_with("version https://git-lfs")
                         ? " (it is a git-lfs pointer: the file itself was not downloaded)"
                     : start.starts_with("<") ? " (it looks like a web page)"
                                              : "";
  fail(ErrorKind::checkpoint, "[gguf] '", file.path(), "' is not a GGUF file: it begins with '",
       printable(start), "'", hint);
}

void read_version(Cursor& cursor, File& file) {
  file.version = cursor.number<uint32_t>();
  if ((file.version & 0xffff) == 0) {  // small versions look so in the other byte order
    file.version = quant::swapped(file.version);
    cursor.order = kNativeOrder == ByteOrder::little ? ByteOrder::big : ByteOrder::little;
  }
  if (file.version < 1 || file.version > 3) {
    cursor.refuse("version ", file.version, " is not known, only 1 to 3");
  }
  file.byte_order = cursor.order;
  cursor.wide = file.version > 1;
}

void read_metadata(Cursor& cursor, uint64_t count, Metadata& metadata) {
  std::unordered_set<std::string> seen;
  for (uint64_t i = 0; i < count; ++i) {
    std::string key = cursor.string();
    if (key.empty()) cursor.refuse("a key of the metadata has no name");
    if (!seen.insert(key).second) cursor.refuse("the key '", printable(key), "' occurs twice");
    const auto type = cursor.number<uint32_t>();
    metadata.emplace_back(std::move(key), cursor.value(type));
  }
}

Entry read_entry(Cursor& cursor) {
  Entry entry;
  entry.name = cursor.string();
  const auto axes = cursor.number<uint32_t>();
  if (axes > kMostAxes) {
    cursor.refuse("tensor '", printable(entry.name), "' has ", axes, " axes, more than ",
                  kMostAxes);
  }
  entry.shape.resize(axes);
  for (auto size = entry.shape.rbegin(); size != entry.shape.rend(); ++size) {
    *size = static_cast<int64_t>(cursor.length());
  }
  entry.type = cursor.number<uint32_t>();
  entry.offset = cursor.number<uint64_t>();
  return entry;
}

std::vector<Entry> read_entries(Cursor& cursor, uint64_t count) {
  std::vector<Entry> entries;
  entries.reserve(count);
  std::unordered_set<std::string> seen;
  for (uint64_t i = 0; i < count; ++i) {
    entries.push_back(read_entry(cursor));
    const std::string& name = entries.back().name;
    if (!seen.insert(name).second) cursor.refuse("tensor '", printable(name), "' occurs twice");
  }
  return entries;
}

// Where the data of the tensors lies, and who keeps it.
struct Data {
  std::shared_ptr<const MappedFile> file;
  uint64_t begin;  // in the file
  uint64_t alignment;

  template <class... Reason>
  [[noreturn]] void refuse(const Entry& entry, const Reason&... reason) const {
    fail(ErrorKind::checkpoint, "[gguf] '", file->path(), "': tensor '", printable(entry.name),
         "' ", reason...);
  }
};

Type known_type(const Data& data, const Entry& entry) {
  if (const TypeInfo* info = find_type(entry.type)) return info->type;
  for (const OtherType& other : kOtherTypes) {
    if (other.id != entry.type) continue;
    fail(ErrorKind::unsupported_model, "[gguf] '", data.file->path(), "': tensor '",
         printable(entry.name), "' is stored as ", other.name, ", which sdcore cannot read");
  }
  data.refuse(entry, "has type ", entry.type, ", which does not exist");
}

Tensor locate(const Data& data, const Entry& entry) {
  const Type type = known_type(data, entry);
  const int64_t bytes = storage_bytes(type, entry.shape);
  if (bytes < 0) {
    data.refuse(entry, "has sizes ", to_string(entry.shape), ", which ", type_info(type).name,
                " cannot have");
  }
  if (entry.offset % data.alignment != 0) {
    data.refuse(entry, "begins at ", entry.offset, ", not a multiple of ", data.alignment);
  }
  const uint64_t available = data.file->size() - std::min(data.begin, data.file->size());
  const auto size = static_cast<uint64_t>(bytes);
  if (size > 0 && (entry.offset > available || size > available - entry.offset)) {
    data.refuse(entry, "takes ", size, " bytes from ", entry.offset, " of the data, which has ",
                available);
  }
  if (size == 0) return {data.file->data(), type, entry.shape, data.file, data.file.get()};
  return {data.file->data() + data.begin + entry.offset, type, entry.shape, data.file,
          data.file.get()};
}

// Two tensors in one place would also let a small file ask for much memory.
void check_apart(const Data& data, const std::vector<Entry>& entries,
                 const std::vector<NamedTensor>& tensors) {
  std::vector<size_t> order;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (tensors[i].tensor.bytes() > 0) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return entries[a].offset < entries[b].offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const size_t before = order[i - 1], here = order[i];
    const auto end = entries[before].offset + static_cast<uint64_t>(tensors[before].tensor.bytes());
    if (entries[here].offset < end) {
      data.refuse(entries[here], "begins at ", entries[here].offset, ", inside tensor '",
                  printable(entries[before].name), "'");
    }
  }
}

void to_native(Tensor& tensor) {
  const auto bytes = static_cast<size_t>(tensor.bytes());
  if (bytes == 0) return;
  const auto copy = std::make_shared<const Buffer>(bytes);
  std::memcpy(copy->data(), tensor.data, bytes);
  type_info(tensor.type).swap_bytes(copy->data(), tensor.elements());
  tensor.data = copy->data();
  tensor.owner = copy;
  tensor.mapping = nullptr;
}

}  // namespace

File read(const std::filesystem::path& path) {
  const auto mapped = MappedFile::open(path);
  Cursor cursor(*mapped);
  File file;
  read_magic(cursor, *mapped);
  read_version(cursor, file);
  const size_t length_bytes = cursor.wide ? 8 : 4;
  // A tensor has at least a name, the number of axes, a type and an offset; a key a name, a type
  // and a byte.
  const uint64_t tensors = cursor.count(length_bytes + 16, "tensors");
  const uint64_t keys = cursor.count(length_bytes + 5, "keys");
  read_metadata(cursor, keys, file.metadata);
  const uint64_t boundary = alignment(file.metadata);
  if (boundary == 0) cursor.refuse("general.alignment is not a u32 that is a power of two");
  const std::vector<Entry> entries = read_entries(cursor, tensors);

  const Data data{mapped, align_up(cursor.position(), boundary), boundary};
  file.tensors.reserve(entries.size());
  for (const Entry& entry : entries) file.tensors.push_back({entry.name, locate(data, entry)});
  check_apart(data, entries, file.tensors);
  if (file.byte_order != kNativeOrder) {
    for (NamedTensor& named : file.tensors) to_native(named.tensor);
  }
  return file;
}

}  // namespace sdcore::gguf
