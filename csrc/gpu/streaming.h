// Weights for which a device has no room: they stay in the program's memory, and are on the device
// only while a step reads them.
#pragma once

#include <cstddef>
#include <memory>

namespace sdcore::gpu {

struct Streamed {
  std::shared_ptr<const void> owner;
  const void* data = nullptr;
  size_t bytes = 0;
  // Where they are on the device during a step; set by who has the device's turn.
  const void* place = nullptr;
};

// Deals room for some of a network's weights. Those that stay are spread evenly over the network,
// so that while a step computes with one, others come.
class WeightBudget {
 public:
  WeightBudget(size_t room, size_t wanted) : room_(room), wanted_(wanted) {}

  // Whether the next weight, of so many bytes of the wanted, stays on the device.
  bool take(size_t bytes) {
    seen_ += bytes;
    const double share = static_cast<double>(room_) / static_cast<double>(wanted_);
    const bool fits = static_cast<double>(taken_ + bytes) <= share * static_cast<double>(seen_);
    if (fits) taken_ += bytes;
    return fits;
  }

 private:
  size_t room_, wanted_, seen_ = 0, taken_ = 0;
};

}  // namespace sdcore::gpu
