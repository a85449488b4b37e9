// Reads GGUF, versions 1 to 3, of either byte order.
#pragma once

#include <filesystem>

#include "gguf/format.h"

namespace sdcore::gguf {

// The tensors share the mapping of the file, which lives as long as any of them; those of a file in
// the other byte order are converted copies. Trusts nothing: a file that is not what it says throws
// Error(checkpoint) with the place, and no allocation exceeds a small multiple of the file's size.
File read(const std::filesystem::path& path);

}  // namespace sdcore::gguf
