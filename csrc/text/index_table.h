// A hash table of places in a list, which says itself what is equal.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sdcore {

// One block of four bytes a slot: vocabularies of 50,000 tokens are made anew at every start.
class IndexTable {
 public:
  static constexpr int32_t kNone = -1;

  // For at most `count` places, so that half of the slots are free.
  explicit IndexTable(size_t count) : slots_(std::bit_ceil(2 * count + 2), kNone) {}

  // The slot of what has this hash and for which is(place); kNone in it: it is not there, and can
  // be put there.
  template <class Is>
  int32_t& slot(uint64_t hash, const Is& is) {
    return slots_[find(hash, is)];
  }
  template <class Is>
  int32_t at(uint64_t hash, const Is& is) const {
    return slots_[find(hash, is)];
  }

 private:
  template <class Is>
  size_t find(uint64_t hash, const Is& is) const {
    // Fibonacci hashing (Knuth, The Art of Computer Programming 6.4) spreads any numbers.
    const int shift = 64 - std::countr_zero(slots_.size());
    size_t i = static_cast<size_t>((hash * 0x9E3779B97F4A7C15u) >> shift);
    while (slots_[i] != kNone && !is(slots_[i])) i = (i + 1) & (slots_.size() - 1);
    return i;
  }

  std::vector<int32_t> slots_;
};

}  // namespace sdcore
