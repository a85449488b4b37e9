// Writes GGUF version 3.
#pragma once

#include <filesystem>
#include <string>

#include "gguf/format.h"

namespace sdcore::gguf {

// The file appears under its name when it is complete; a failure throws Error(io) and leaves
// nothing behind. Tensors are written one after another straight from their memory, aligned to the
// general.alignment of the metadata (32 where it has none). They may come from the very file that
// is replaced.
void write(const std::filesystem::path& path, const Metadata& metadata,
           const std::vector<NamedTensor>& tensors, ByteOrder order = ByteOrder::little);

// What comes before the tensors' data, padding included; the data of the tensors is not looked at.
std::string header(const Metadata& metadata, const std::vector<NamedTensor>& tensors,
                   ByteOrder order = ByteOrder::little);

}  // namespace sdcore::gguf
