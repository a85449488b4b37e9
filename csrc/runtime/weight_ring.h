// The way of streamed weights through a device: a few places, each for one weight at a time. While
// a step computes, the weights of the next steps come into the others.
#pragma once

#include <array>

#include "gpu/device.h"
#include "runtime/executable.h"

namespace sdcore {

class WeightRing {
 public:
  // Of the nodes from `from` to before `to`.
  WeightRing(const Executable& executable, size_t from, size_t to, gpu::Device& device);

  bool is_empty() const { return uses_.empty(); }
  size_t bytes() const { return kPlaces * place_bytes_; }
  // Of all streamed weights, as often as they are read.
  size_t streamed_bytes() const;
  static size_t bytes_for(size_t largest) { return kPlaces * align_up(largest, 256); }

  // A run: begin, then for each of the nodes, in order, before its launches and after.
  void begin(std::byte* memory);
  void before(size_t node);
  void after(size_t node);

 private:
  struct Use {
    size_t node;
    gpu::Streamed* weight;
  };
  struct Place {
    std::unique_ptr<gpu::Mark> arrived, read;
  };
  static constexpr size_t kPlaces = 3;

  void fetch(size_t use);
  Place& place_of(size_t use) { return places_[use % kPlaces]; }

  gpu::Device& device_;
  std::vector<Use> uses_;  // in the order of the steps
  std::array<Place, kPlaces> places_;
  size_t place_bytes_ = 0;
  std::byte* memory_ = nullptr;
  size_t next_ = 0;  // use that is launched next
};

}  // namespace sdcore
