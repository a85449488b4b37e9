// A device whose memory is the program's. Its two lanes are queues that run only when somebody
// waits: each in its turn as far ahead of the other as their marks let it, so that what has to wait
// and does not shows.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>

#include "base/buffer.h"
#include "gpu/emulation.h"
#include "gpu/open.h"

namespace sdcore::gpu {
namespace {

struct EmulatedMark : Mark {
  uint64_t told = 0;                                                // how often
  std::shared_ptr<uint64_t> passed = std::make_shared<uint64_t>();  // by tasks that may outlive it
};

// Something to do when the lane comes to it, if it may go on.
struct Task {
  std::function<bool()> may_go_on;  // empty: always
  std::function<void()> work;
};

class EmulatedDevice : public Device {
 public:
  EmulatedDevice(std::string_view name, int architecture, size_t bytes)
      : name_(name), architecture_(architecture), limit_(bytes) {}

  Backend backend() const override { return Backend::emulated; }
  std::string id() const override { return name_; }
  int ordinal() const override { return 0; }
  std::string name() const override { return name_; }
  int architecture() const override { return architecture_; }
  int multiprocessors() const override { return 1; }
  void* stream() const override { return nullptr; }

  void enqueue(Lane lane, Task task) {
    const std::lock_guard lock(lanes_mutex_);
    lane_of(lane).push_back(std::move(task));
  }

  void upload(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override {
    enqueue(Lane::kernels, {{}, [=] { std::memcpy(to, from, bytes); }});
  }
  void wait() override {
    const std::lock_guard lock(lanes_mutex_);
    run_lanes();
  }
  void settle() noexcept override {
    try {
      wait();
    } catch (const Error&) {  // of work that nobody waits for any more
    }
  }
  bool can_read(const void*) const override { return true; }
  void follow(uintptr_t) override {}

  void upload_beside(void* to, const void* from, size_t bytes) override {
    enqueue(Lane::copies, {{}, [=] { std::memcpy(to, from, bytes); }});
  }
  std::unique_ptr<Mark> make_mark() override { return std::make_unique<EmulatedMark>(); }
  void pass(Mark& mark, Lane lane) override {
    auto& passing = static_cast<EmulatedMark&>(mark);
    enqueue(lane, {{}, [passed = passing.passed, time = ++passing.told] { *passed = time; }});
  }
  void await(Mark& mark, Lane lane) override {
    const auto& awaited = static_cast<const EmulatedMark&>(mark);
    enqueue(lane, {[passed = awaited.passed, time = awaited.told] { return *passed >= time; }, {}});
  }
  std::shared_ptr<std::byte> staging(size_t bytes) override {
    const auto buffer = std::make_shared<Buffer>(bytes);
    return {buffer, buffer->data()};
  }

  std::unique_ptr<Recording> record(const std::function<void()>& launches) override {
    // What is recorded runs again as it was, so a launch that depends on the moment would show.
    struct Again : Recording {
      std::function<void()> launches;
      void replay() override { launches(); }
    };
    launches();
    auto recording = std::make_unique<Again>();
    recording->launches = launches;
    return recording;
  }

  size_t footprint(size_t bytes) const override { return align_up(bytes + 1, 256); }
  size_t free_bytes() const override { return limit_ - used_; }
  size_t total_bytes() const override { return limit_; }

 protected:
  void* get_memory(size_t bytes) override {
    const size_t whole = footprint(bytes);
    if (bytes > limit_ || used_.fetch_add(whole) + whole > limit_) {
      if (bytes <= limit_) used_ -= whole;
      return nullptr;
    }
    auto* block = static_cast<std::byte*>(std::aligned_alloc(256, whole + 256));
    if (!block) {
      used_ -= whole;
      return nullptr;
    }
    std::memcpy(block, &whole, sizeof(whole));  // what free_memory gives back
    return block + 256;
  }
  void free_memory(void* memory) override {
    settle();
    auto* block = static_cast<std::byte*>(memory) - 256;
    size_t whole;
    std::memcpy(&whole, block, sizeof(whole));
    used_ -= whole;
    std::free(block);
  }

 private:
  std::deque<Task>& lane_of(Lane lane) { return lanes_[lane == Lane::copies]; }

  void move(void* to, const void* from, size_t bytes) {
    wait();
    std::memcpy(to, from, bytes);
  }

  // Whether the lane did anything.
  static bool run_lane(std::deque<Task>& lane) {
    bool did = false;
    for (; !lane.empty(); did = true) {
      const Task task = std::move(lane.front());
      if (task.may_go_on && !task.may_go_on()) {
        lane.front() = task;
        break;
      }
      lane.pop_front();
      if (task.work) task.work();
    }
    return did;
  }

  void run_lanes() {
    try {
      for (bool did = true; did; ++turn_) {
        did = run_lane(lanes_[turn_ % 2]) | run_lane(lanes_[(turn_ + 1) % 2]);
      }
      require(lanes_[0].empty() && lanes_[1].empty(), ErrorKind::internal,
              "[emulated] the lanes wait for each other");
    } catch (...) {
      for (auto& lane : lanes_) lane.clear();
      throw;
    }
  }

  const std::string name_;
  const int architecture_;
  const size_t limit_;
  std::atomic<size_t> used_ = 0;
  std::mutex lanes_mutex_;
  std::deque<Task> lanes_[2];
  size_t turn_ = 0;
};

}  // namespace

void emulation::enqueue(Device& device, std::function<void()> work) {
  static_cast<EmulatedDevice&>(device).enqueue(Lane::kernels, {{}, std::move(work)});
}

std::unique_ptr<Device> open_emulated(std::string_view name, int architecture, size_t bytes) {
  return std::make_unique<EmulatedDevice>(name, architecture, bytes);
}

}  // namespace sdcore::gpu
