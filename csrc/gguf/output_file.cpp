#include "gguf/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace sdcore::gguf {
namespace fs = std::filesystem;
namespace {

// The file that a name stands for, so that a link stays a link.
fs::path target_of(const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (!fs::exists(status)) return path;
  require(fs::is_regular_file(status), ErrorKind::io, "[file] cannot write '", path.string(),
          "': it is not a file");
  const fs::path target = fs::canonical(path, error);
  return error ? path : target;
}

}  // namespace

OutputFile::OutputFile(const fs::path& path) : path_(target_of(path)) {
  static std::atomic<unsigned> counter{0};
  const std::string name = concat(".sdcore-", ::getpid(), "-", counter++, ".partial");
  temporary_ = (path_.parent_path() / name).string();
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) refuse(errno);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse(errno);
    next += written;
    bytes -= static_cast<size_t>(written);
  }
}

void OutputFile::commit() {
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) refuse(errno);
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) refuse(errno);
  temporary_.clear();
}

void OutputFile::refuse(int error) const {
  fail(ErrorKind::io, "[file] cannot write '", path_.string(), "': ", std::strerror(error));
}

}  // namespace sdcore::gguf
