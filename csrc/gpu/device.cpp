#include "gpu/device.h"

#include <charconv>
#include <map>

#include "base/guarded.h"
#include "gpu/open.h"

namespace sdcore::gpu {
namespace {

#if defined(SDCORE_HAVE_EMULATED_GPU)
// Null where this is not the name of an emulated device.
std::unique_ptr<Device> make_emulated(std::string_view name) {
  constexpr std::string_view kPrefix = "emulated", kHopper = "90";
  if (!name.starts_with(kPrefix)) return nullptr;
  std::string_view rest = name.substr(kPrefix.size());
  const bool hopper = rest.starts_with(kHopper);
  if (hopper) rest.remove_prefix(kHopper.size());
  size_t mebibytes = 4096;
  if (!rest.empty()) {
    const char* end = rest.data() + rest.size();
    const auto [stop, error] = std::from_chars(rest.data() + 1, end, mebibytes);
    const bool read = rest.front() == ':' && stop == end && error == std::errc();
    if (!read || mebibytes == 0 || mebibytes > 4096) return nullptr;
  }
  return open_emulated(name, hopper ? 90 : 80, mebibytes << 20);
}
#endif

std::unique_ptr<Device> make_device(std::string_view name) {
#if defined(SDCORE_HAVE_EMULATED_GPU)
  if (auto emulated = make_emulated(name)) return emulated;
#endif
  const bool second = name.starts_with("cuda:") && name.size() == 6;
  const int ordinal = second ? name.back() - '0' : 0;
  require(name == "cuda" || (second && ordinal >= 0 && ordinal <= 9), ErrorKind::invalid_argument,
          "[device] must be cpu, cuda, or cuda:1 for the second GPU, got '", name, "'");
#if defined(SDCORE_HAVE_CUDA)
  return open_cuda(ordinal);
#else
  fail(ErrorKind::invalid_argument,
       "[cuda] this build has no CUDA: install with pip install . -C cmake.define.SDCORE_CUDA=ON, "
       "or use device='cpu'");
#endif
}

std::string mebibytes(size_t bytes) { return concat((bytes + 0xfffff) >> 20, " MiB"); }

}  // namespace

DeviceMemoryPtr Device::allocate(size_t bytes, std::string_view purpose) {
  void* data = get_memory(bytes);
  require(data != nullptr, ErrorKind::out_of_memory, "[", name(), "] out of memory: ", purpose,
          " needs ", mebibytes(bytes), ", and ", mebibytes(free_bytes()), " of ",
          mebibytes(total_bytes()),
          " are free; draw smaller pictures, quantize the model, or use device='cpu'");
  return std::make_shared<DeviceMemory>(*this, data, bytes);
}

std::mutex& Device::mutex() {
  require(is_of_this_process(), ErrorKind::invalid_argument, "[", name(),
          "] was opened before this process was forked, and works only in the one that opened it; "
          "open it after the fork, or start processes by 'spawn'");
  return mutex_;
}

std::byte* Device::arena(size_t bytes) {
  if (!arena_ || arena_->size() < bytes) {
    arena_.reset();  // what is too small makes room first
    arena_ = allocate(bytes, "the intermediate results of a network");
  }
  return static_cast<std::byte*>(arena_->data());
}

size_t Device::arena_bytes() const { return arena_ ? arena_->size() : 0; }

Fault* Device::fault() {
  if (!fault_) {
    fault_ = allocate(sizeof(Fault), "a word");
    constexpr Fault none;
    upload(fault_->data(), &none, sizeof(none));
  }
  return static_cast<Fault*>(fault_->data());
}

void Device::check_fault() {
  Fault found;
  download(&found, fault(), sizeof(found));
  if (found.kind == Fault::none) return;
  constexpr Fault none;
  upload(fault(), &none, sizeof(none));
  if (found.kind == Fault::take_index) {
    fail(ErrorKind::invalid_argument, "[take] index ", found.value, " is outside a sequence of ",
         found.limit);
  }
  fail(ErrorKind::invalid_argument, "[embedding] id ", found.value, " at position ", found.position,
       " is outside the table of ", found.limit, " rows");
}

Device& open_device(std::string_view name) {
  // Never destroyed: memory of networks that outlive it would have nowhere to go back to.
  static auto& all = *new Guarded<std::map<std::string, std::unique_ptr<Device>, std::less<>>>;
  const std::string key(name == "cuda" ? "cuda:0" : name);
  const auto devices = all.lock();
  auto found = devices->find(key);
  if (found == devices->end()) found = devices->emplace(key, make_device(name)).first;
  return *found->second;
}

std::vector<std::string> device_names() {
  std::vector<std::string> names;
#if defined(SDCORE_HAVE_CUDA)
  for (int i = 0; i < cuda_device_count(); ++i) {
    names.push_back(i == 0 ? std::string("cuda") : concat("cuda:", i));
  }
#endif
  return names;
}

}  // namespace sdcore::gpu
