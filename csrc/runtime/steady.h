// Inputs, float32, that are the same in several runs, such as what a sampler tells its network of a
// prompt, and what networks make of them and of weights alone: each makes it in its first run with
// them, and it is kept here. Safe to use from many threads.
#pragma once

#include <functional>
#include <list>
#include <memory>

#include "base/guarded.h"
#include "gpu/device.h"
#include "runtime/executable.h"

namespace sdcore {

class Steady {
 public:
  struct Input {
    Shape shape;
    Buffer values;  // dense
  };
  using Inputs = std::map<std::string, Input>;

  // They cannot change from here on.
  explicit Steady(Inputs inputs);

  const InputShapes& shapes() const { return shapes_; }
  const InputNames& names() const { return names_; }
  const InputArrays& arrays() const { return arrays_; }

  // Memory in which an executable keeps what it made of them: kept_bytes() of it, here or on a
  // device.
  struct Kept {
    std::weak_ptr<const Executable> of;
    Buffer here;
    gpu::DeviceMemoryPtr there;
  };
  // That of one, which `make` fills if it is new. What goes wrong there leaves nothing behind.
  const Kept& kept(const std::shared_ptr<const Executable>& executable,
                   const std::function<void(Kept&)>& make);

 private:
  Inputs inputs_;
  InputShapes shapes_;
  InputNames names_;
  InputArrays arrays_;
  Guarded<std::list<Kept>> kept_;
};

}  // namespace sdcore
