// A file that appears under its name only when it is complete.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace sdcore::gguf {

class OutputFile {
 public:
  // Opens a temporary file in the same folder. Throws Error(io), as all of these, naming the path.
  explicit OutputFile(const std::filesystem::path& path);
  ~OutputFile();  // removes what is not committed
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit();  // gives it its name

 private:
  [[noreturn]] void refuse(int error) const;

  std::filesystem::path path_;
  std::string temporary_;
  int descriptor_ = -1;
};

}  // namespace sdcore::gguf
