// Rows of bf16 as the integers that integer_tile.h multiplies, where an Op is described. Included
// only from files of one instruction set.
#pragma once

#include <limits>

#include "kernels/gemm/engine.h"

namespace sdcore::gemm {

// What is this close together is its lowest, and what is this close to zero is zero.
constexpr float kClose = std::numeric_limits<float>::min() * 256;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// 32 numbers, as vectors.
template <class Op>
struct Numbers {
  using F = typename Op::F;
  static constexpr int count = kStep / Op::width;
  F v[count];

  template <class T>
  [[gnu::always_inline]] explicit Numbers(const T* from) {
#pragma GCC unroll 32
    for (int j = 0; j < count; ++j) v[j] = Op::load(from + j * Op::width);
  }
  [[gnu::always_inline]] bool unordered() const {
    bool any = false;
#pragma GCC unroll 32
    for (int j = 0; j + 1 < count; j += 2) any |= Op::unordered(v[j], v[j + 1]);
    return any;
  }
  // Of the numbers, or of their opposites.
  [[gnu::always_inline]] float highest(bool opposite) const {
    F high = opposite ? Op::sub(Op::zero(), v[0]) : v[0];
#pragma GCC unroll 32
    for (int j = 1; j < count; ++j) {
      high = Op::max(high, opposite ? Op::sub(Op::zero(), v[j]) : v[j]);
    }
    return Op::max_lane(high);
  }
  [[gnu::always_inline]] void spread(float start, float factor) {
    const F from = Op::set(start), times = Op::set(factor);
#pragma GCC unroll 32
    for (int j = 0; j < count; ++j) v[j] = Op::mul(Op::sub(v[j], from), times);
  }
};

// Both ends are met, so that what an activation has pressed to one side of zero loses least.
template <class Op>
SDCORE_SIMD void quantize_block(const bf16* from, ActivationBlock& to) {
  Numbers<Op> x(from);
  const bool unordered = x.unordered();
  const float low = -x.highest(true), range = x.highest(false) - low;
  x.spread(low, range > kClose ? 255.0f / range : 0.0f);
  const auto sum = static_cast<float>(Op::to_integers(x.v, to.values));
  to.scale = unordered ? kNaN : range * (1.0f / 255.0f);
  to.low = low;
  to.scaled_sum = to.scale * sum;
}

struct Even {
  float scale, scaled_sum;
};

// As integers of no more than `most` to both sides of zero.
template <class Op>
SDCORE_SIMD Even quantize_evenly(Numbers<Op>& x, float most, int16_t* to) {
  const bool unordered = x.unordered();
  const float high = x.highest(false), negative = x.highest(true);
  const float largest = high > negative ? high : negative;
  x.spread(0.0f, largest > kClose ? most / largest : 0.0f);
  const auto sum = static_cast<float>(Op::to_integers(x.v, to));
  const bool finite = !unordered && largest <= std::numeric_limits<float>::max();
  const float scale = finite ? largest * (1.0f / most) : kNaN;
  return {scale, scale * sum};
}

template <class Op>
SDCORE_SIMD void quantize_block(const bf16* from, WideActivationBlock& to) {
  Numbers<Op> x(from);
  const Even even = quantize_evenly<Op>(x, 32767.0f, to.values);
  to.scale = even.scale;
  to.scaled_sum = even.scaled_sum;
}

template <class Op>
void quantize_rows(const View& in, int64_t begin, int64_t end, std::byte* out) {
  const int64_t blocks = in.c / kStep;
  for (int64_t i = begin; i < end; ++i) {
    const bf16* from = in.at<const bf16>(i / (in.h * in.w), i / in.w % in.h, i % in.w);
    auto* to = reinterpret_cast<typename Op::Block*>(out) + i * blocks;
    for (int64_t b = 0; b < blocks; ++b, from += kStep) quantize_block<Op>(from, to[b]);
  }
}

}  // namespace sdcore::gemm
