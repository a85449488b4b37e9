// How attention turns bf16 into 16-bit integers, in pairs. A number of 8 significant bits times a
// power of two is exact in 16, unless it is far below the largest that has the same factor. `Op` is
// that of integers.h.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>

#include "base/half.h"
#include "simd/math.h"

namespace sdcore::attention_kernels {

constexpr int kWeightBits = 14;  // of the weights that values are multiplied with

template <class Op>
struct Quantizer {
  using F = typename Op::F;
  using I = typename Op::I;
  static constexpr int64_t width = Op::width;

  // floor(log2(x)) for x > 0, or less where x is subnormal; 128 for infinity.
  static int exponent(float x) {
    return static_cast<int>(std::bit_cast<uint32_t>(x) >> 23 & 0xffu) - 127;
  }

  // 2^e for e in [-126, 127].
  static float power_of_two(int e) {
    return std::bit_cast<float>(static_cast<uint32_t>(e + 127) << 23);
  }

  // `width` rows become columns: to[p * stride] holds pair p of each, zeros where there is none.
  static void transpose_pairs(const bf16* from, int64_t row, int64_t count, int64_t d, int32_t* to,
                              int64_t stride) {
    for (int64_t c = 0; c < d; c += 2 * width) {
      const int64_t channels = std::min(2 * width, d - c);
      typename Op::Bits square[width];
      for (int64_t r = 0; r < width; ++r) {
        const bf16* at = from + std::min(r, count - 1) * row + c;
        square[r] = channels == 2 * width ? Op::load_bits(at) : Op::load_pairs(at, channels);
      }
      Op::transpose(square);
      for (int64_t p = 0; 2 * p < channels; ++p) {
        Op::store_bits(to + (c / 2 + p) * stride, square[p]);
      }
    }
  }

  // The scale of each row: NaN for a row with a number that is not finite.
  static void scales_of(const int32_t* rows, int64_t stride, int64_t pairs, float* scales,
                        float* inverses) {
    F high = Op::zero(), norm = Op::zero();
    for (int64_t p = 0; p < pairs; ++p) {
      const I x = Op::load_bits(rows + p * stride);
      high = Op::max(high, Op::max(simd::abs<Op>(Op::low(x)), simd::abs<Op>(Op::high(x))));
    }
    Op::store(scales, high);
    int size[width];
    for (int64_t i = 0; i < width; ++i) {
      size[i] = std::min(exponent(scales[i]), 126);
      scales[i] = power_of_two(-size[i]);
    }
    const F unit = Op::load(scales);
    for (int64_t p = 0; p < pairs; ++p) {
      const I x = Op::load_bits(rows + p * stride);
      const F low = Op::mul(Op::low(x), unit), up = Op::mul(Op::high(x), unit);
      norm = Op::fma(low, low, Op::fma(up, up, norm));
    }
    Op::store(scales, norm);
    for (int64_t i = 0; i < width; ++i) {
      const bool finite = scales[i] < std::numeric_limits<float>::infinity();
      const int e = std::min(14 - (exponent(scales[i]) >> 1) - size[i], 126);
      inverses[i] = finite ? power_of_two(e) : 0.0f;
      scales[i] = finite ? power_of_two(-e) : std::numeric_limits<float>::quiet_NaN();
    }
  }

  // Pairs of bf16 to integers, in place.
  static void quantize(int32_t* pairs, int64_t stride, int64_t count, const float* inverses) {
    const F inverse = Op::load(inverses);
    for (int64_t p = 0; p < count; ++p) {
      const I x = Op::load_bits(pairs + p * stride);
      Op::store_bits(pairs + p * stride,
                     Op::to_pairs(Op::mul(Op::low(x), inverse), Op::mul(Op::high(x), inverse)));
    }
  }

  // `width` rows of bf16 as integers, [pair][row], and the scale of each.
  static void quantize_rows(const bf16* from, int64_t row, int64_t count, int64_t d, int32_t* to,
                            int64_t stride, float* scales) {
    alignas(64) float inverses[width];
    const int64_t pairs = (d + 1) / 2;
    transpose_pairs(from, row, count, d, to, stride);
    scales_of(to, stride, pairs, scales, inverses);
    quantize(to, stride, pairs, inverses);
  }

  // Values as they are, in panels of pairs of keys, row by row as they lie in memory: a head's rows
  // are so far apart that few of them fit the same lines of L1.
  static void interleave(const bf16* from, int64_t row, int64_t count, int64_t d, int32_t* to,
                         int64_t panel) {
    for (int64_t k = 0; k < count; k += 2) {
      const bf16* first = from + k * row;
      for (int64_t c = 0; c < d; c += width) {
        const int64_t n = std::min(width, d - c);
        const auto load = [&](const bf16* p) {
          return n == width ? Op::load(p) : Op::load_n(p, n);
        };
        const F second = k + 1 < count ? load(first + row + c) : Op::zero();
        Op::store_bits(to + c / width * panel + k / 2 * width,
                       Op::interleave(load(first + c), second));
      }
    }
  }

  // The scale of each channel of a panel: NaN for one with a number that is not finite.
  static void value_scales_of(const int32_t* values, int64_t pairs, float* scales,
                              float* inverses) {
    F high = Op::zero(), sum = Op::zero();
    for (int64_t p = 0; p < pairs; ++p) {
      const I x = Op::load_bits(values + p * width);
      const F low = simd::abs<Op>(Op::low(x)), up = simd::abs<Op>(Op::high(x));
      high = Op::max(high, Op::max(low, up));
      sum = Op::fma(Op::add(low, up), Op::set(1.0f / 256), sum);
    }
    alignas(64) float highs[width];
    Op::store(highs, high);
    Op::store(scales, sum);
    for (int64_t i = 0; i < width; ++i) {
      const bool finite = scales[i] < std::numeric_limits<float>::infinity();
      // Rounding to integers adds less than the 256th part to the sum.
      const int sums = exponent(scales[i] + scales[i] / 256);
      const int e =
          std::clamp(std::min(14 - exponent(highs[i]), 22 - kWeightBits - sums), -126, 126);
      inverses[i] = finite ? power_of_two(e) : 0.0f;
      scales[i] = finite ? power_of_two(-e) : std::numeric_limits<float>::quiet_NaN();
    }
  }

  // Values of `count` keys as integers, in panels `panel` apart, and the scale of each channel.
  static void quantize_values(const bf16* from, int64_t row, int64_t count, int64_t d, int32_t* to,
                              int64_t panel, float* scales) {
    interleave(from, row, count, d, to, panel);
    for (int64_t c = 0; c < d; c += width, to += panel) {
      alignas(64) float inverses[width];
      value_scales_of(to, (count + 1) / 2, scales + c, inverses);
      quantize(to, width, (count + 1) / 2, inverses);
    }
  }
};

}  // namespace sdcore::attention_kernels
