// An executable on a device: its inputs go there or are read where they lie there, its launches are
// replayed as one where the device can, and its outputs come back or stay. Nothing waits in
// between.
#pragma once

#include "gpu/device.h"
#include "runtime/executable.h"
#include "runtime/steady.h"
#include "runtime/weight_ring.h"

namespace sdcore {

class DeviceRun {
 public:
  DeviceRun(std::shared_ptr<const Executable> executable, const KernelContext& kernels);

  // Bytes of weights that come from the program's memory in every run.
  size_t streamed_bytes() const { return ring_.streamed_bytes(); }
  // Takes turns with everything else on the device. `steady` has the inputs that the plan says are;
  // null where there are none.
  void run(const InputArrays& inputs, const OutputArrays& outputs, const Observer& observer,
           Steady* steady);

 private:
  // The value that an array of the caller is, and room for one that comes or goes: beside the
  // arena, as float32, or in the value's place where that is as wanted.
  struct Staged {
    std::string name;
    ValueId id;
    size_t offset, bytes;
  };

  void stage(const std::string& name, ValueId id, std::vector<Staged>& list);
  void run_in(std::byte* arena, const InputArrays& inputs, const OutputArrays& outputs,
              const Observer& observer, Steady* steady);
  void enter(std::byte* arena);
  void bring_kept(Steady& steady, const Observer& observer);
  void make_kept(const Steady& steady, const Observer& observer);
  void take_in(const Staged& to, const InputArray& from) const;
  void give_out(const Staged& from, const OutputArray& to) const;
  void launch(size_t from, size_t to, WeightRing& ring, const Observer& observer);
  void launch_steps(const Observer& observer);
  void launch_or_replay(const Observer& observer);

  std::shared_ptr<const Executable> executable_;
  KernelContext kernels_;
  WeightRing steady_ring_, ring_;  // in the same places
  std::vector<Staged> steady_inputs_, inputs_, outputs_;
  size_t bytes_;                              // of the arena with all that lies behind it
  size_t kept_offset_ = 0, ring_offset_ = 0;  // in the arena
  std::byte* arena_ = nullptr;
  std::vector<View> views_;
  bool launched_ = false;  // in this arena
  // For this arena. Where weights are streamed there is none: their copies take longer than
  // launches.
  std::unique_ptr<gpu::Recording> recording_;
};

}  // namespace sdcore
