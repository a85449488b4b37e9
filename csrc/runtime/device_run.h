// An executable on a device: its inputs go there, its launches are replayed as one where the device
// can, and its outputs come back. Nothing waits in between.
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
  // A dense float32 or int32 array of the caller beside the arena, and the value that it is.
  struct Staged {
    std::string name;
    ValueId id;
    size_t offset, bytes;
  };

  void stage(const std::string& name, ValueId id, std::vector<Staged>& list);
  void launch(const Observer& observer) const;
  void launch_or_replay(std::byte* arena, const Observer& observer);

  std::shared_ptr<const Executable> executable_;
  KernelContext kernels_;
  std::vector<Staged> inputs_, outputs_;
  size_t bytes_;  // of the arena with what is staged
  std::byte* arena_ = nullptr;
  std::vector<View> views_;
  std::unique_ptr<gpu::Recording> recording_;  // for this arena
};

}  // namespace sdcore
