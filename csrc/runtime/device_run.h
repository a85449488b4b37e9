// An executable on a device: its inputs go there or are read where they lie there, its launches are
// replayed as one where the device can, and its outputs come back or stay. Nothing waits in
// between.
#pragma once

#include "gpu/device.h"
#include "runtime/executable.h"

namespace sdcore {

class DeviceRun {
 public:
  DeviceRun(std::shared_ptr<const Executable> executable, const KernelContext& kernels);

  // Takes turns with everything else on the device.
  void run(const InputArrays& inputs, const OutputArrays& outputs, const Observer& observer);

 private:
  // The value that an array of the caller is, and room for one that comes or goes: beside the
  // arena, as float32, or in the value's place where that is as wanted.
  struct Staged {
    std::string name;
    ValueId id;
    size_t offset, bytes;
  };

  void stage(const std::string& name, ValueId id, std::vector<Staged>& list);
  void enter(std::byte* arena);
  void take_in(const Staged& to, const InputArray& from) const;
  void give_out(const Staged& from, const OutputArray& to) const;
  void launch(const Observer& observer) const;
  void launch_or_replay(const Observer& observer);

  std::shared_ptr<const Executable> executable_;
  KernelContext kernels_;
  std::vector<Staged> inputs_, outputs_;
  size_t bytes_;  // of the arena with what is staged
  std::byte* arena_ = nullptr;
  std::vector<View> views_;
  bool launched_ = false;                      // in this arena
  std::unique_ptr<gpu::Recording> recording_;  // for this arena
};

}  // namespace sdcore
