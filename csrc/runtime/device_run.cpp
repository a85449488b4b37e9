#include "runtime/device_run.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

View dense_like(const View& v, DType dtype, void* data) {
  return dense_view(data, dtype, v.n, v.h, v.w, v.c);
}

}  // namespace

DeviceRun::DeviceRun(std::shared_ptr<const Executable> executable, const KernelContext& kernels)
    : executable_(std::move(executable)),
      kernels_(kernels),
      steady_ring_(*executable_, 0, executable_->plan().steady_nodes, *kernels.device),
      ring_(*executable_, executable_->plan().steady_nodes, executable_->plan().graph.nodes.size(),
            *kernels.device),
      bytes_(executable_->arena_bytes()) {
  const Plan& plan = executable_->plan();
  kept_offset_ = align_up(bytes_, 256);
  bytes_ = kept_offset_ + executable_->kept_bytes();
  for (size_t i = 0; i < plan.graph.values.size(); ++i) {
    const Value& value = plan.graph.values[i];
    if (value.kind != Value::Kind::input || plan.offsets[i] < 0) continue;
    stage(value.name, static_cast<ValueId>(i), value.steady ? steady_inputs_ : inputs_);
  }
  for (const auto& [name, id] : plan.graph.outputs) stage(name, id, outputs_);
  ring_offset_ = align_up(bytes_, 256);
  bytes_ = ring_offset_ + std::max(steady_ring_.bytes(), ring_.bytes());
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
                    const Observer& observer, Steady* steady) {
  require(!observer.squares, ErrorKind::invalid_argument,
          "[network] what comes into layers is only looked at on the CPU; use device='cpu'");
  gpu::Device& device = *kernels_.device;
  const std::lock_guard turn(device.mutex());
  try {
    run_in(device.arena(bytes_), inputs, outputs, observer, steady);
  } catch (...) {
    device.settle();  // what has begun ends while its memory is there
    throw;
  }
}

void DeviceRun::run_in(std::byte* arena, const InputArrays& inputs, const OutputArrays& outputs,
                       const Observer& observer, Steady* steady) {
  enter(arena);
  if (steady) bring_kept(*steady, observer);
  for (const Staged& to : inputs_) take_in(to, inputs.at(to.name));
  launch_or_replay(observer);
  for (const Staged& from : outputs_) give_out(from, outputs.at(from.name));
  kernels_.device->check_fault();  // it waits: what stays on the device is there
}

// Into the arena, where recorded launches read it: others run there too.
void DeviceRun::bring_kept(Steady& steady, const Observer& observer) {
  gpu::Device& device = *kernels_.device;
  std::byte* here = arena_ + kept_offset_;
  const size_t bytes = executable_->kept_bytes();
  bool is_here = false;
  const Steady::Kept& kept = steady.kept(executable_, [&](Steady::Kept& made) {
    make_kept(steady, observer);
    is_here = true;
    try {
      made.there = device.allocate(bytes + 1, "what is kept between steps");
      device.copy(made.there->data(), here, bytes);
    } catch (const Error& error) {  // without room it is made at every run
      if (error.kind() != ErrorKind::out_of_memory) throw;
    }
  });
  if (is_here) return;
  if (!kept.there) return make_kept(steady, observer);
  device.copy(here, kept.there->data(), bytes);
}

void DeviceRun::make_kept(const Steady& steady, const Observer& observer) {
  for (const Staged& to : steady_inputs_) take_in(to, steady.arrays().at(to.name));
  launch(0, executable_->plan().steady_nodes, steady_ring_, observer);
  kernels_.device->check_fault();
}

void DeviceRun::enter(std::byte* arena) {
  if (arena == arena_) return;
  arena_ = arena;
  views_ = executable_->views_in(arena, arena + kept_offset_);
  recording_.reset();
  launched_ = false;
}

// Conversions are beside the recording: their addresses are the caller's.
void DeviceRun::take_in(const Staged& to, const InputArray& from) const {
  gpu::Device& device = *kernels_.device;
  const View& value = views_[static_cast<size_t>(to.id)];
  View given = dense_like(value, from.dtype, const_cast<void*>(from.data));
  if (!from.on_device) {
    given = dense_like(value, DType::f32, arena_ + to.offset);
    device.upload(given.data, from.data, to.bytes);
  }
  if (value.dtype != DType::i32) return unary({given, value}, kernels_);
  if (from.on_device) device.copy(value.data, from.data, to.bytes);
}

void DeviceRun::give_out(const Staged& from, const OutputArray& to) const {
  const View& value = views_[static_cast<size_t>(from.id)];
  void* out = to.on_device ? static_cast<void*>(to.data) : arena_ + from.offset;
  unary({value, dense_like(value, DType::f32, out)}, kernels_);
  if (!to.on_device) kernels_.device->download(to.data, out, from.bytes);
}

void DeviceRun::launch_or_replay(const Observer& observer) {
  // Sizes that are run once are not worth a recording.
  if (!std::exchange(launched_, true) || observer.times) return launch_steps(observer);
  if (!ring_.is_empty()) return launch_steps({});
  if (recording_) return recording_->replay();
  recording_ = kernels_.device->record([this] { launch_steps({}); });
}

void DeviceRun::launch_steps(const Observer& observer) {
  const Plan& plan = executable_->plan();
  launch(plan.steady_nodes, plan.graph.nodes.size(), ring_, observer);
}

void DeviceRun::launch(size_t from, size_t to, WeightRing& ring, const Observer& observer) {
  const Run run{views_.data(), arena_, kernels_};
  ring.begin(arena_ + ring_offset_);
  const auto now = [] { return std::chrono::steady_clock::now(); };
  for (size_t i = from; i < to; ++i) {
    if (observer.times) kernels_.device->wait();
    const auto start = now();
    ring.before(i);
    executable_->run_step(i, run);
    ring.after(i);
    if (!observer.times) continue;
    kernels_.device->wait();
    const std::chrono::duration<double> time = now() - start;
    observer.times->push_back(executable_->timed(i, time.count()));
  }
}

}  // namespace sdcore
