#include "runtime/device_run.h"

#include <chrono>

#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

View dense_like(const View& v, void* data) {
  return dense_view(data, DType::f32, v.n, v.h, v.w, v.c);
}

}  // namespace

DeviceRun::DeviceRun(std::shared_ptr<const Executable> executable, const KernelContext& kernels)
    : executable_(std::move(executable)), kernels_(kernels), bytes_(executable_->arena_bytes()) {
  const Plan& plan = executable_->plan();
  for (size_t i = 0; i < plan.graph.values.size(); ++i) {
    const Value& value = plan.graph.values[i];
    if (value.kind != Value::Kind::input || plan.offsets[i] < 0) continue;
    stage(value.name, static_cast<ValueId>(i), inputs_);
  }
  for (const auto& [name, id] : plan.graph.outputs) stage(name, id, outputs_);
}

void DeviceRun::stage(const std::string& name, ValueId id, std::vector<Staged>& list) {
  const Plan& plan = executable_->plan();
  const View& v = plan.views[static_cast<size_t>(id)];
  const size_t offset = align_up(bytes_, 256), bytes = static_cast<size_t>(v.pixels() * v.c) * 4;
  if (v.dtype == DType::i32) {  // as it will be read: it goes to its place at once
    list.push_back({name, id, static_cast<size_t>(plan.offsets[static_cast<size_t>(id)]), bytes});
    return;
  }
  list.push_back({name, id, offset, bytes});
  bytes_ = offset + bytes;
}

void DeviceRun::run(const InputArrays& inputs, const OutputArrays& outputs,
                    const Observer& observer) {
  require(!observer.squares, ErrorKind::invalid_argument,
          "[network] what comes into layers is only looked at on the CPU; use device='cpu'");
  gpu::Device& device = *kernels_.device;
  const std::lock_guard turn(device.mutex());
  std::byte* arena = device.arena(bytes_);
  for (const Staged& to : inputs_) {
    device.upload(arena + to.offset, inputs.at(to.name), to.bytes);
  }
  launch_or_replay(arena, observer);
  for (const Staged& from : outputs_) {
    device.download(outputs.at(from.name), arena + from.offset, from.bytes);
  }
  device.check_fault();
}

void DeviceRun::launch_or_replay(std::byte* arena, const Observer& observer) {
  const bool first = arena != arena_;
  if (first) {
    arena_ = arena;
    views_ = executable_->views_in(arena);
    recording_.reset();
  }
  // Sizes that are run once are not worth a recording.
  if (first || observer.times) return launch(observer);
  if (recording_) return recording_->replay();
  recording_ = kernels_.device->record([this] { launch({}); });
}

void DeviceRun::launch(const Observer& observer) const {
  const Run run{views_.data(), arena_, kernels_};
  for (const Staged& from : inputs_) {
    const View& to = views_[static_cast<size_t>(from.id)];
    if (to.dtype == DType::i32) continue;
    unary({dense_like(to, arena_ + from.offset), to}, kernels_);
  }
  const auto now = [] { return std::chrono::steady_clock::now(); };
  for (size_t i = 0; i < executable_->plan().graph.nodes.size(); ++i) {
    if (observer.times) kernels_.device->wait();
    const auto start = now();
    executable_->run_step(i, run);
    if (!observer.times) continue;
    kernels_.device->wait();
    const std::chrono::duration<double> time = now() - start;
    observer.times->push_back(executable_->timed(i, time.count()));
  }
  for (const Staged& to : outputs_) {
    const View& from = views_[static_cast<size_t>(to.id)];
    unary({from, dense_like(from, arena_ + to.offset)}, kernels_);
  }
}

}  // namespace sdcore
