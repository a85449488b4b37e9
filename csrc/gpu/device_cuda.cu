// NVIDIA's GPUs by the CUDA runtime, linked statically; it looks for the driver when first asked,
// so that a program with this in it starts without one.
#include <cuda_runtime.h>

#include <algorithm>

#include "base/buffer.h"
#include "base/env.h"
#include "gpu/open.h"

namespace sdcore::gpu {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // it is told once
  fail(ErrorKind::internal, "[cuda] ", what, ": ", cudaGetErrorString(status));
}

// The architecture whose kernels are used on a GPU of this one.
int usable(int architecture) {
#if !defined(SDCORE_HAVE_HOPPER_KERNELS)
  if (architecture == 90) return 89;
#endif
  return std::min(architecture, env::cuda_architecture().value_or(architecture));
}

struct Event : Mark {
  ~Event() override { cudaEventDestroy(event); }
  cudaEvent_t event = nullptr;
};

class Graph : public Recording {
 public:
  Graph(int ordinal, cudaGraphExec_t graph, cudaStream_t stream)
      : ordinal_(ordinal), graph_(graph), stream_(stream) {}
  ~Graph() override { cudaGraphExecDestroy(graph_); }
  void replay() override {
    check(cudaSetDevice(ordinal_), "choosing the GPU");
    check(cudaGraphLaunch(graph_, stream_), "launching a graph");
  }

 private:
  int ordinal_;
  cudaGraphExec_t graph_;
  cudaStream_t stream_;
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int ordinal) : ordinal_(ordinal) {
    use();
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, ordinal), "reading the GPU's properties");
    name_ = properties.name;
    multiprocessors_ = properties.multiProcessorCount;
    architecture_ = usable(10 * properties.major + properties.minor);
    require(properties.major >= 8, ErrorKind::invalid_argument, "[cuda] ", name_,
            " has compute capability ", properties.major, ".", properties.minor,
            ", and 8.0 is the least; use device='cpu'");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "making a stream");
  }

  Backend backend() const override { return Backend::cuda; }
  std::string id() const override { return concat("cuda:", ordinal_); }
  int ordinal() const override { return ordinal_; }
  std::string name() const override { return name_; }
  int architecture() const override { return architecture_; }
  int multiprocessors() const override { return multiprocessors_; }
  void* stream() const override { return stream_; }

  void upload(void* to, const void* from, size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copying to the GPU");
    // From memory that is not pinned the copy is staged before this returns; from pinned it is not.
    cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, from) != cudaSuccess) {
      (void)cudaGetLastError();
    } else if (attributes.type == cudaMemoryTypeHost) {
      wait();
    }
  }
  void download(void* to, const void* from, size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_),
          "copying from the GPU");
    wait();
  }
  void copy(void* to, const void* from, size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_),
          "copying on the GPU");
  }
  void wait() override {
    use();
    check(cudaStreamSynchronize(stream_), "running a network");
  }

  void settle() noexcept override {
    cudaSetDevice(ordinal_);
    cudaStreamSynchronize(stream_);
    cudaStreamSynchronize(copies_);
    (void)cudaGetLastError();
  }
  bool can_read(const void* data) const override {
    use();
    cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
      (void)cudaGetLastError();
      return false;
    }
    return attributes.type == cudaMemoryTypeManaged ||
           (attributes.type == cudaMemoryTypeDevice && attributes.device == ordinal_);
  }
  void follow(uintptr_t stream) override {
    use();
    cudaEvent_t reached = nullptr;
    check(cudaEventCreateWithFlags(&reached, cudaEventDisableTiming), "making an event");
    cudaError_t status = cudaEventRecord(reached, reinterpret_cast<cudaStream_t>(stream));
    if (status == cudaSuccess) status = cudaStreamWaitEvent(stream_, reached);
    cudaEventDestroy(reached);  // when it has been reached
    check(status, "waiting for the stream of an array");
  }

  void upload_beside(void* to, const void* from, size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, copies_), "copying to the GPU");
  }
  std::unique_ptr<Mark> make_mark() override {
    use();
    auto event = std::make_unique<Event>();
    check(cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming), "making an event");
    return event;
  }
  void pass(Mark& mark, Lane lane) override {
    use();
    check(cudaEventRecord(static_cast<Event&>(mark).event, stream_of(lane)), "passing an event");
  }
  void await(Mark& mark, Lane lane) override {
    use();
    check(cudaStreamWaitEvent(stream_of(lane), static_cast<Event&>(mark).event),
          "waiting for an event");
  }
  std::shared_ptr<std::byte> staging(size_t bytes) override {
    use();
    void* memory = nullptr;
    if (cudaHostAlloc(&memory, bytes, cudaHostAllocPortable) == cudaSuccess) {
      return {static_cast<std::byte*>(memory), [](std::byte* pinned) { cudaFreeHost(pinned); }};
    }
    (void)cudaGetLastError();
    const auto buffer = std::make_shared<Buffer>(bytes);
    return {buffer, buffer->data()};
  }

  std::unique_ptr<Recording> record(const std::function<void()>& launches) override {
    use();
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "beginning a graph");
    cudaGraph_t graph = nullptr;
    try {
      launches();
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "ending a graph");
    cudaGraphExec_t made = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&made, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "making a graph");
    auto recording = std::make_unique<Graph>(ordinal_, made, stream_);
    recording->replay();
    return recording;
  }

  // Large ones are of whole pages.
  size_t footprint(size_t bytes) const override {
    return align_up(bytes, bytes < (size_t{1} << 20) ? 512 : size_t{2} << 20);
  }
  size_t free_bytes() const override { return memory().first; }
  size_t total_bytes() const override { return memory().second; }

 protected:
  void* get_memory(size_t bytes) override {
    use();
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, bytes);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      return nullptr;
    }
    check(status, "getting memory");
    return data;
  }
  void free_memory(void* memory) override { cudaFree(memory); }  // waits for what uses it

 private:
  cudaStream_t stream_of(Lane lane) const { return lane == Lane::kernels ? stream_ : copies_; }
  // The current device is a thread's own.
  void use() const { check(cudaSetDevice(ordinal_), "choosing the GPU"); }
  std::pair<size_t, size_t> memory() const {
    use();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    return {free, total};
  }

  int ordinal_, architecture_ = 0, multiprocessors_ = 1;
  std::string name_;
  cudaStream_t stream_ = nullptr, copies_ = nullptr;
};

}  // namespace

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

std::unique_ptr<Device> open_cuda(int ordinal) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  const bool no_driver = status == cudaErrorInsufficientDriver;
  require(!no_driver, ErrorKind::invalid_argument,
          "[cuda] there is no NVIDIA driver, or it is too old for CUDA ", CUDART_VERSION / 1000,
          ".", CUDART_VERSION % 1000 / 10, ": install a newer one, or use device='cpu'");
  require(status == cudaSuccess && count > 0, ErrorKind::invalid_argument,
          "[cuda] the driver finds no GPU (", cudaGetErrorString(status), "); use device='cpu'");
  require(ordinal < count, ErrorKind::invalid_argument, "[cuda] there is no GPU ", ordinal,
          ", only ", count);
  return std::make_unique<CudaDevice>(ordinal);
}

}  // namespace sdcore::gpu
