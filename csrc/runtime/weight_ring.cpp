#include "runtime/weight_ring.h"

#include <algorithm>

namespace sdcore {

WeightRing::WeightRing(const Executable& executable, size_t from, size_t to, gpu::Device& device)
    : device_(device) {
  for (size_t node = from; node < to; ++node) {
    gpu::Streamed* weight = executable.streamed(node);
    if (!weight) continue;
    uses_.push_back({node, weight});
    place_bytes_ = std::max(place_bytes_, align_up(weight->bytes, 256));
  }
  if (uses_.empty()) return;
  for (Place& place : places_) place = {device.make_mark(), device.make_mark()};
}

size_t WeightRing::streamed_bytes() const {
  size_t bytes = 0;
  for (const Use& use : uses_) bytes += use.weight->bytes;
  return bytes;
}

void WeightRing::begin(std::byte* memory) {
  memory_ = memory;
  next_ = 0;
  // The run before this one has ended: nobody reads these places.
  for (size_t use = 0; use < std::min(kPlaces, uses_.size()); ++use) fetch(use);
}

void WeightRing::fetch(size_t use) {
  const gpu::Streamed& weight = *uses_[use].weight;
  device_.upload_beside(memory_ + use % kPlaces * place_bytes_, weight.data, weight.bytes);
  device_.pass(*place_of(use).arrived, gpu::Lane::copies);
}

void WeightRing::before(size_t node) {
  if (next_ == uses_.size() || uses_[next_].node != node) return;
  uses_[next_].weight->place = memory_ + next_ % kPlaces * place_bytes_;
  device_.await(*place_of(next_).arrived, gpu::Lane::kernels);
}

void WeightRing::after(size_t node) {
  if (next_ == uses_.size() || uses_[next_].node != node) return;
  device_.pass(*place_of(next_).read, gpu::Lane::kernels);
  // A copy from memory that is not pinned holds this thread up until its place is free: the place
  // of the use before, so that the device has this one's kernels meanwhile.
  if (next_ > 0 && next_ - 1 + kPlaces < uses_.size()) {
    device_.await(*place_of(next_ - 1).read, gpu::Lane::copies);
    fetch(next_ - 1 + kPlaces);
  }
  ++next_;
}

}  // namespace sdcore
