// A GPU as the rest of the house sees it: memory of its own, and one stream on which everything
// happens in order, but for copies of weights beside it. The kernels that run there are a
// backend's: `cuda`, or `emulated`, where the same source runs on this processor, slowly, so that
// it can be tested where there is no GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/forks.h"

namespace sdcore::gpu {

enum class Backend : uint8_t { cuda, emulated };

class DeviceMemory;
using DeviceMemoryPtr = std::shared_ptr<DeviceMemory>;

// What a kernel found wrong with the numbers that it was given; the first that is found is kept.
struct Fault {
  enum Kind : uint32_t { none, embedding_id, take_index };
  uint32_t kind = none;
  int32_t value = 0, position = 0, limit = 0;
};

// Launches that were recorded, to be sent to the device as one.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
};

// The stream of kernels, and that of copies beside it.
enum class Lane : uint8_t { kernels, copies };

// A point that one lane passes and another waits for.
class Mark {
 public:
  virtual ~Mark() = default;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual Backend backend() const = 0;
  virtual std::string id() const = 0;    // what open_device takes
  virtual int ordinal() const = 0;       // among those of its backend
  virtual std::string name() const = 0;  // of the hardware
  // Its compute capability times ten: 90 has instructions that neither 80 nor 120 has.
  virtual int architecture() const = 0;
  virtual int multiprocessors() const = 0;
  virtual void* stream() const = 0;

  virtual size_t free_bytes() const = 0;
  virtual size_t total_bytes() const = 0;
  // What an allocation of so many bytes takes of them.
  virtual size_t footprint(size_t bytes) const = 0;
  // Throws Error(out_of_memory) that says what it was for, how much was needed and what there was.
  DeviceMemoryPtr allocate(size_t bytes, std::string_view purpose);

  // In the order of the stream. When `upload` returns, `from` may change; when `download` returns,
  // `to` is there.
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  // From memory of this device, of any stream whose work is done.
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void wait() = 0;
  // Waits for both lanes after something went wrong, whatever else does.
  virtual void settle() noexcept = 0;

  // Whether kernels can read what is at this address.
  virtual bool can_read(const void* data) const = 0;
  // What comes after this in the stream runs after what is now in the stream of another program's
  // with this handle.
  virtual void follow(uintptr_t stream) = 0;

  // In the lane of copies: `from` stays as it is until the copy is known to be done.
  virtual void upload_beside(void* to, const void* from, size_t bytes) = 0;
  virtual std::unique_ptr<Mark> make_mark() = 0;
  // The lane passes the mark when it comes to this point; the other waits for it as last told.
  virtual void pass(Mark& mark, Lane lane) = 0;
  virtual void await(Mark& mark, Lane lane) = 0;
  // Memory of the program that is copied to the device fastest, or any where there is none such.
  virtual std::shared_ptr<std::byte> staging(size_t bytes) = 0;

  // Runs `launches`, which may launch kernels and do nothing else, and records them; null where the
  // backend only runs them.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& launches) = 0;

  // Whoever runs a network holds this: there is one stream and one arena. Throws in a process that
  // forked after the device was opened, where no driver works.
  std::mutex& mutex();
  // At least this many bytes, shared by everything that runs on the device, one after another.
  std::byte* arena(size_t bytes);
  size_t arena_bytes() const;
  void release_arena() { arena_.reset(); }
  // Where kernels leave a Fault; on the device.
  Fault* fault();
  // Throws if a kernel left one, and forgets it. Waits.
  void check_fault();

  bool is_of_this_process() const { return forks_ == fork_count(); }

 protected:
  virtual void* get_memory(size_t bytes) = 0;  // null: there is not enough
  virtual void free_memory(void* memory) = 0;

 private:
  friend class DeviceMemory;

  const uint32_t forks_ = fork_count();
  std::mutex mutex_;
  DeviceMemoryPtr arena_, fault_;
};

class DeviceMemory {
 public:
  DeviceMemory(Device& device, void* data, size_t bytes)
      : device_(device), data_(data), bytes_(bytes) {}
  ~DeviceMemory() {
    if (device_.is_of_this_process()) device_.free_memory(data_);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  Device& device_;
  void* data_;
  size_t bytes_;
};

// "cuda", "cuda:1", "emulated", "emulated90" for a device of that architecture where the other is
// of 80, or "emulated:64" with so many MiB; asking twice gives the same device, which lives as long
// as the process. Throws Error(invalid_argument) that says what to do where there is none.
Device& open_device(std::string_view name);

// What open_device can open here: "cuda" where a driver and a GPU are found.
std::vector<std::string> device_names();

// The row of a family's registry that is for this device.
template <class Row>
const Row& row_for(std::initializer_list<const Row*> rows, const Device& device) {
  for (const Row* row : rows) {
    if (row->backend == device.backend()) return *row;
  }
  fail(ErrorKind::internal, "[kernels] no variant for ", device.name());
}

}  // namespace sdcore::gpu
