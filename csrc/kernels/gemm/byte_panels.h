// Panels of quantized convolutions: the integers of their blocks as bytes, with the blocks' own
// scales, so that nothing is rounded and a weight takes little more than a byte. Blocks run along
// the taps of a channel before the next channel, so 32 channels are as many blocks as there are
// taps: a group.
//
//   group: [block][output] scales, the same of offsets where the type has them (floats),
//          [tap][channel][output] bytes
//
// Steps of a panel (engine.h) are a group's taps, in order.
#pragma once

#include "kernels/gemm/engine.h"
#include "simd/scalar.h"

namespace sdcore {
struct PackedWeight;
}

namespace sdcore::gemm {

// The type of such panels.
inline constexpr Type kBytes = Type::i8;

constexpr int64_t byte_scales(int64_t taps, int64_t panel, bool offsets) {
  return taps * panel * (offsets ? 2 : 1);
}
constexpr int64_t byte_group(int64_t taps, int64_t panel, bool offsets) {
  return byte_scales(taps, panel, offsets) * int64_t{sizeof(float)} + taps * kStep * panel;
}

// Fills the panels of a weight whose sizes and variant are known.
void pack_bytes(const Tensor& weight, PackedWeight& packed, ThreadPool& pool);

// A vector of weights from their bytes, their scales, and offsets that are so far from these.
template <class V, bool offsets>
SDCORE_SIMD typename V::F byte_weights(const int8_t* bytes, const float* scales,
                                       [[maybe_unused]] int64_t to_offsets) {
  const typename V::F x = V::load(bytes);
  if constexpr (offsets) return V::fma(x, V::load(scales), V::load(scales + to_offsets));
  return V::mul(x, V::load(scales));
}

// The weights of one step: a tap of a group.
template <class V, int panel, bool offsets>
class ByteStep {
 public:
  ByteStep(const std::byte* of_panel, int64_t taps, int64_t step)
      : taps_(taps), tap_(step % taps), group_bytes_(byte_group(taps, panel, offsets)) {
    scales_ = reinterpret_cast<const float*>(of_panel + step / taps * group_bytes_);
    bytes_ = reinterpret_cast<const int8_t*>(scales_ + byte_scales(taps, panel, offsets)) +
             tap_ * kStep * panel;
  }

  // Of channel k of the group, from output j of the panel on.
  [[gnu::always_inline]] typename V::F operator()(int64_t k, int64_t j) const {
    return byte_weights<V, offsets>(
        bytes_ + k * panel + j, scales_ + (k * taps_ + tap_) / kStep * panel + j, taps_ * panel);
  }

  void prefetch_next_group(int64_t k) const {
    __builtin_prefetch(bytes_ + k * panel + group_bytes_);
  }

 private:
  const int64_t taps_, tap_, group_bytes_;
  const float* scales_;
  const int8_t* bytes_;
};

// A vector of outputs' weights of one channel, from output j of the panel on.
template <class V, int panel, bool offsets>
class ByteTaps {
 public:
  ByteTaps(const std::byte* of_panel, int64_t taps, int64_t channel, int64_t j)
      : taps_(taps), first_(channel % kStep * taps) {
    const std::byte* group = of_panel + channel / kStep * byte_group(taps, panel, offsets);
    const auto* scales = reinterpret_cast<const float*>(group);
    const auto* bytes = reinterpret_cast<const int8_t*>(scales + byte_scales(taps, panel, offsets));
    scales_ = scales + j;
    bytes_ = bytes + channel % kStep * panel + j;
  }

  typename V::F operator()(int64_t tap) const {
    return byte_weights<V, offsets>(bytes_ + tap * kStep * panel,
                                    scales_ + (first_ + tap) / kStep * panel, taps_ * panel);
  }

  void prefetch_next_group() const {
    const int8_t* next = bytes_ + byte_group(taps_, panel, offsets);
    for (int64_t tap = 0; tap < taps_; ++tap) __builtin_prefetch(next + tap * kStep * panel);
  }

 private:
  const float* scales_;
  const int8_t* bytes_;
  int64_t taps_, first_;
};

}  // namespace sdcore::gemm
