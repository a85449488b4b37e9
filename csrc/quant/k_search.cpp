#include "quant/k_search.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sdcore::quant {
namespace {

// Four floats at a time: this much every processor can do.
using Vec [[gnu::vector_size(16)]] = float;

Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

float total(Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }

// Nearest integer within [low, high], NaN giving low. Adding 1.5 * 2^23 leaves no room for a
// fraction.
template <class T>
T round_within(T value, float low, float high) {
  const T below = value > low ? value : T{} + low;
  const T kept = below < high ? below : T{} + high;
  return (kept + 0x1.8p23f) - 0x1.8p23f;
}

// The scale of scales: finite, and rounded away from zero so that the largest still fits, however
// small.
f16 unit_of(float value) {
  const float finite = std::clamp(value, -65504.0f, 65504.0f);
  f16 unit = to_f16(finite);
  if (std::fabs(to_float(unit)) < std::fabs(finite)) ++unit.bits;
  return unit;
}

// What a candidate step leaves: its quants and, from them, the best step and offset.
struct Moments {
  float q, qq, qy;
};

template <int size>
Moments moments(const float* y, float inverse, float low, float high) {
  Vec q{}, qq{}, qy{};
  for (int i = 0; i < size; i += 4) {
    const Vec value = load(y + i), rounded = round_within(value * inverse, low, high);
    q += rounded;
    qq += rounded * rounded;
    qy += rounded * value;
  }
  return {total(q), total(qq), total(qy)};
}

// Squared error of step * q - offset with the best q.
template <int size>
float squared_error(const float* x, float step, float offset, float low, float high) {
  const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
  Vec error{};
  for (int i = 0; i < size; i += 4) {
    const Vec value = load(x + i), rounded = round_within((value + offset) * inverse, low, high);
    const Vec difference = step * rounded - offset - value;
    error += difference * difference;
  }
  return total(error);
}

template <int size>
void assign(const float* x, float step, float offset, float low, float high, uint8_t* quants) {
  const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
  for (int i = 0; i < size; ++i) {
    quants[i] = static_cast<uint8_t>(round_within((x[i] + offset) * inverse, low, high) - low);
  }
}

struct Affine {
  float step = 0.0f, offset = 0.0f;  // x ~ step * q - offset, both not negative
};

// For each candidate step, round, then solve for the step and offset that suit those quants best.
Affine fit_group(const float* x, float levels) {
  const float lowest = std::min(0.0f, *std::min_element(x, x + 32));
  const float range = *std::max_element(x, x + 32) - lowest;
  if (!(range > 0.0f)) return {0.0f, -lowest};
  float y[32], sum = 0.0f;
  for (int i = 0; i < 32; ++i) sum += y[i] = x[i] - lowest;

  Affine best{range / levels, -lowest};
  float best_gain = 0.0f;  // how much of the sum of y * y the fit explains
  for (int candidate = -5; candidate <= 5; ++candidate) {
    const float inverse = (levels + 0.2f * static_cast<float>(candidate)) / range;
    const Moments m = moments<32>(y, inverse, 0.0f, levels);
    const float determinant = 32.0f * m.qq - m.q * m.q;
    if (!(determinant > 0.0f)) continue;
    float step = (32.0f * m.qy - sum * m.q) / determinant;
    float shift = (sum * m.qq - m.qy * m.q) / determinant;  // y ~ step * q + shift
    if (lowest + shift > 0.0f) {                            // the offset cannot be negative
      shift = -lowest;
      step = (m.qy - shift * m.q) / m.qq;
    }
    const float gain = 2.0f * (step * m.qy + shift * sum) - step * step * m.qq -
                       2.0f * step * shift * m.q - 32.0f * shift * shift;
    if (step > 0.0f && gain > best_gain) {
      best_gain = gain;
      best = {step, -(lowest + shift)};
    }
  }
  return best;
}

// Steps of a group of 16 that is symmetric about zero: x ~ step * q, -32 <= q <= 31.
float fit_group(const float* x) {
  float furthest = 0.0f;
  for (int i = 0; i < 16; ++i) {
    if (std::fabs(x[i]) > std::fabs(furthest)) furthest = x[i];
  }
  if (furthest == 0.0f) return 0.0f;
  float best = furthest / -32.0f, best_gain = 0.0f;
  for (int candidate = -5; candidate <= 5; ++candidate) {
    const float inverse = (-32.0f + 0.2f * static_cast<float>(candidate)) / furthest;
    const Moments m = moments<16>(x, inverse, -32.0f, 31.0f);
    if (!(m.qq > 0.0f)) continue;
    const float step = m.qy / m.qq, gain = step * m.qy;
    if (gain > best_gain) {
      best_gain = gain;
      best = step;
    }
  }
  return best;
}

int nearest_multiple(float value, float unit, int low, int high) {
  if (unit == 0.0f) return 0;
  return static_cast<int>(
      round_within(value / unit, static_cast<float>(low), static_cast<float>(high)));
}

}  // namespace

AffineBlock fit_affine(const float* values, int levels) {
  const auto top = static_cast<float>(levels);
  Affine groups[8];
  float largest_step = 0.0f, largest_offset = 0.0f;
  for (int g = 0; g < 8; ++g) {
    groups[g] = fit_group(values + g * 32, top);
    largest_step = std::max(largest_step, groups[g].step);
    largest_offset = std::max(largest_offset, groups[g].offset);
  }
  AffineBlock block{};
  block.scale = unit_of(largest_step / 63.0f);
  block.minimum = unit_of(largest_offset / 63.0f);
  const float scale = to_float(block.scale), minimum = to_float(block.minimum);
  for (int g = 0; g < 8; ++g) {
    // Rounding both scales moves the optimum: try their neighbours too.
    const float* x = values + g * 32;
    const int step = nearest_multiple(groups[g].step, scale, 0, 63);
    const int offset = nearest_multiple(groups[g].offset, minimum, 0, 63);
    float best = squared_error<32>(x, 0.0f, 0.0f, 0.0f, top);  // all zeros: block{}
    for (int s = std::max(step - 1, 0); s <= std::min(step + 1, 63); ++s) {
      for (int o = std::max(offset - 1, 0); o <= std::min(offset + 1, 63); ++o) {
        const float error = squared_error<32>(x, scale * static_cast<float>(s),
                                              minimum * static_cast<float>(o), 0.0f, top);
        if (!(error < best)) continue;
        best = error;
        block.scales[g] = static_cast<uint8_t>(s);
        block.minimums[g] = static_cast<uint8_t>(o);
      }
    }
    assign<32>(x, scale * block.scales[g], minimum * block.minimums[g], 0.0f, top,
               block.quants + g * 32);
  }
  return block;
}

SymmetricBlock fit_symmetric(const float* values) {
  float steps[16], largest = 0.0f;
  for (int g = 0; g < 16; ++g) {
    steps[g] = fit_group(values + g * 16);
    if (std::fabs(steps[g]) > std::fabs(largest)) largest = steps[g];
  }
  SymmetricBlock block{};
  block.scale = unit_of(largest / -128.0f);
  const float scale = to_float(block.scale);
  for (int g = 0; g < 16; ++g) {
    const float* x = values + g * 16;
    const int step = nearest_multiple(steps[g], scale, -128, 127);
    float best = squared_error<16>(x, 0.0f, 0.0f, -32.0f, 31.0f);
    for (int s = std::max(step - 1, -128); s <= std::min(step + 1, 127); ++s) {
      const float error = squared_error<16>(x, scale * static_cast<float>(s), 0.0f, -32.0f, 31.0f);
      if (!(error < best)) continue;
      best = error;
      block.scales[g] = static_cast<int8_t>(s);
    }
    assign<16>(x, scale * block.scales[g], 0.0f, -32.0f, 31.0f, block.quants + g * 16);
  }
  return block;
}

}  // namespace sdcore::quant
