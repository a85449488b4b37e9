#include "quant/k_search.h"

#include <array>

#include "quant/search.h"

namespace sdcore::quant {
namespace {

constexpr auto kAlike = [] {
  std::array<float, 256> ones{};
  ones.fill(1.0f);
  return ones;
}();

// Nearest integer within [low, high], NaN giving low. Adding 1.5 * 2^23 leaves no room for a
// fraction.
template <class T>
T round_within(T value, float low, float high) {
  const T below = value > low ? value : T{} + low;
  const T kept = below < high ? below : T{} + high;
  return (kept + 0x1.8p23f) - 0x1.8p23f;
}

int nearest_multiple(float value, float unit, int low, int high) {
  if (unit == 0.0f) return 0;
  return static_cast<int>(
      round_within(value / unit, static_cast<float>(low), static_cast<float>(high)));
}

// ---- x ~ step * q - offset ----

struct Affine {
  float step = 0.0f, offset = 0.0f;  // both not negative
};

// Sums over a group, each weighed, for the quants that a candidate step gives.
struct Moments {
  float q, qq, qy;
};

template <int size>
Moments moments(const float* y, const float* w, float inverse, float high) {
  Vec q{}, qq{}, qy{};
  for (int i = 0; i < size; i += 4) {
    const Vec value = load(y + i), rounded = round_within(value * inverse, 0.0f, high);
    const Vec weighed = load(w + i) * rounded;
    q += weighed;
    qq += weighed * rounded;
    qy += weighed * value;
  }
  return {total(q), total(qq), total(qy)};
}

// Squared error of step * q - offset with the best q.
template <int size>
float squared_error(const float* x, const float* w, float step, float offset, float high) {
  const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
  Vec error{};
  for (int i = 0; i < size; i += 4) {
    const Vec value = load(x + i), rounded = round_within((value + offset) * inverse, 0.0f, high);
    const Vec difference = step * rounded - offset - value;
    error += load(w + i) * difference * difference;
  }
  return total(error);
}

// For each candidate step, round, then solve for the step and offset that suit those quants best.
template <int size>
Affine fit_group(const float* x, const float* w, float levels) {
  const float lowest = std::min(0.0f, *std::min_element(x, x + size));
  const float range = *std::max_element(x, x + size) - lowest;
  if (!(range > 0.0f)) return {0.0f, -lowest};
  float y[size], weight = 0.0f, sum = 0.0f;
  for (int i = 0; i < size; ++i) {
    y[i] = x[i] - lowest;
    weight += w[i];
    sum += w[i] * y[i];
  }

  Affine best{range / levels, -lowest};
  float best_gain = 0.0f;  // how much of the sum of y * y the fit explains
  for (int candidate = -5; candidate <= 5; ++candidate) {
    const float inverse = (levels + 0.2f * static_cast<float>(candidate)) / range;
    const Moments m = moments<size>(y, w, inverse, levels);
    const float determinant = weight * m.qq - m.q * m.q;
    if (!(determinant > 0.0f)) continue;
    float step = (weight * m.qy - sum * m.q) / determinant;
    float shift = (sum * m.qq - m.qy * m.q) / determinant;  // y ~ step * q + shift
    if (lowest + shift > 0.0f) {                            // the offset cannot be negative
      shift = -lowest;
      step = (m.qy - shift * m.q) / m.qq;
    }
    const float gain = 2.0f * (step * m.qy + shift * sum) - step * step * m.qq -
                       2.0f * step * shift * m.q - weight * shift * shift;
    if (step > 0.0f && gain > best_gain) {
      best_gain = gain;
      best = {step, -(lowest + shift)};
    }
  }
  return best;
}

template <int size>
AffineBlock fit_affine(const float* values, const float* weights, AffineShape shape) {
  constexpr int groups = 256 / size;
  const auto top = static_cast<float>(shape.levels), most = static_cast<float>(shape.most);
  Affine fits[groups];
  float largest_step = 0.0f, largest_offset = 0.0f;
  for (int g = 0; g < groups; ++g) {
    fits[g] = fit_group<size>(values + g * size, weights + g * size, top);
    largest_step = std::max(largest_step, fits[g].step);
    largest_offset = std::max(largest_offset, fits[g].offset);
  }
  AffineBlock block{};
  block.scale = unit_of(largest_step / most);
  block.minimum = unit_of(largest_offset / most);
  const float scale = to_float(block.scale), minimum = to_float(block.minimum);
  for (int g = 0; g < groups; ++g) {
    // Rounding both scales moves the optimum: try their neighbours too.
    const float *x = values + g * size, *w = weights + g * size;
    const int step = nearest_multiple(fits[g].step, scale, 0, shape.most);
    const int offset = nearest_multiple(fits[g].offset, minimum, 0, shape.most);
    float best = squared_error<size>(x, w, 0.0f, 0.0f, top);  // all zeros: block{}
    for (int s = std::max(step - 1, 0); s <= std::min(step + 1, shape.most); ++s) {
      for (int o = std::max(offset - 1, 0); o <= std::min(offset + 1, shape.most); ++o) {
        const float error = squared_error<size>(x, w, scale * static_cast<float>(s),
                                                minimum * static_cast<float>(o), top);
        if (!(error < best)) continue;
        best = error;
        block.scales[g] = static_cast<uint8_t>(s);
        block.minimums[g] = static_cast<uint8_t>(o);
      }
    }
    const float fitted = scale * block.scales[g], shift = minimum * block.minimums[g];
    const float inverse = fitted != 0.0f ? 1.0f / fitted : 0.0f;
    for (int i = 0; i < size; ++i) {
      block.quants[g * size + i] =
          static_cast<uint8_t>(round_within((x[i] + shift) * inverse, 0.0f, top));
    }
  }
  return block;
}

// ---- x ~ step * level ----

// Levels low, low + 1 ... high.
template <int low, int high>
struct Linear {
  static constexpr float kEnds[] = {low, high};
  static constexpr float kSpread = 0.3f;

  template <class T>
  static T round(T value) {
    return round_within(value, static_cast<float>(low), static_cast<float>(high));
  }
  static uint8_t index(float value) { return static_cast<uint8_t>(round(value) - low); }
};

// The 16 levels of iq4.
struct Table {
  static constexpr float kEnds[] = {kIq4Levels[0], kIq4Levels[15]};
  static constexpr float kSpread = 1.5f;

  static float middle(int i) {
    return 0.5f * static_cast<float>(kIq4Levels[i] + kIq4Levels[i + 1]);
  }
  template <class T>
  static T round(T value) {
    T level = T{} + static_cast<float>(kIq4Levels[0]);
    for (int i = 0; i < 15; ++i) {
      level = value > middle(i) ? T{} + static_cast<float>(kIq4Levels[i + 1]) : level;
    }
    return level;
  }
  static uint8_t index(float value) {
    int index = 0;
    for (int i = 0; i < 15; ++i) index += value > middle(i) ? 1 : 0;
    return static_cast<uint8_t>(index);
  }
};

template <class Levels, int size>
float squared_error(const float* x, const float* w, float step) {
  const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
  Vec error{};
  for (int i = 0; i < size; i += 4) {
    const Vec value = load(x + i), difference = step * Levels::round(value * inverse) - value;
    error += load(w + i) * difference * difference;
  }
  return total(error);
}

// For each candidate step, round, then solve for the step that suits those levels best.
template <class Levels, int size>
float fit_group(const float* x, const float* w) {
  float furthest = 0.0f;
  for (int i = 0; i < size; ++i) {
    if (std::fabs(x[i]) > std::fabs(furthest)) furthest = x[i];
  }
  if (furthest == 0.0f) return 0.0f;
  float best = furthest / Levels::kEnds[0], best_gain = 0.0f;
  for (const float end : Levels::kEnds) {
    for (int candidate = -5; candidate <= 5; ++candidate) {
      const float inverse = (end + Levels::kSpread * static_cast<float>(candidate)) / furthest;
      Vec energy{}, inner{};
      for (int i = 0; i < size; i += 4) {
        const Vec value = load(x + i), level = Levels::round(value * inverse);
        const Vec weighed = load(w + i) * level;
        energy += weighed * level;
        inner += weighed * value;
      }
      const float qq = total(energy), qx = total(inner);
      if (!(qq > 0.0f)) continue;
      const float step = qx / qq, gain = step * qx;
      if (gain > best_gain) {
        best_gain = gain;
        best = step;
      }
    }
  }
  return best;
}

template <class Levels, int size>
void assign(const float* x, float step, uint8_t* quants) {
  const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
  for (int i = 0; i < size; ++i) quants[i] = Levels::index(x[i] * inverse);
}

// With scales of groups from -most to most - 1.
template <class Levels, int size, int most>
SymmetricBlock fit_symmetric(const float* values, const float* importance) {
  const float* weights = importance ? importance : kAlike.data();
  constexpr int groups = 256 / size;
  float steps[groups], largest = 0.0f;
  for (int g = 0; g < groups; ++g) {
    steps[g] = fit_group<Levels, size>(values + g * size, weights + g * size);
    if (std::fabs(steps[g]) > std::fabs(largest)) largest = steps[g];
  }
  SymmetricBlock block{};
  block.scale = unit_of(largest / static_cast<float>(-most));
  const float scale = to_float(block.scale);
  for (int g = 0; g < groups; ++g) {
    // Rounding the scale moves the optimum: try its neighbours too.
    const float *x = values + g * size, *w = weights + g * size;
    const int step = nearest_multiple(steps[g], scale, -most, most - 1);
    float best = squared_error<Levels, size>(x, w, 0.0f);
    for (int s = std::max(step - 1, -most); s <= std::min(step + 1, most - 1); ++s) {
      const float error = squared_error<Levels, size>(x, w, scale * static_cast<float>(s));
      if (!(error < best)) continue;
      best = error;
      block.scales[g] = static_cast<int8_t>(s);
    }
    assign<Levels, size>(x, scale * block.scales[g], block.quants + g * size);
  }
  return block;
}

}  // namespace

AffineBlock fit_affine(const float* values, const float* importance, AffineShape shape) {
  const float* weights = importance ? importance : kAlike.data();
  return shape.group == 16 ? fit_affine<16>(values, weights, shape)
                           : fit_affine<32>(values, weights, shape);
}

SymmetricBlock fit_q3_k(const float* values, const float* importance) {
  return fit_symmetric<Linear<-4, 3>, 16, 32>(values, importance);
}

SymmetricBlock fit_q6_k(const float* values, const float* importance) {
  return fit_symmetric<Linear<-32, 31>, 16, 128>(values, importance);
}

SymmetricBlock fit_iq4_xs(const float* values, const float* importance) {
  return fit_symmetric<Table, 32, 32>(values, importance);
}

Iq4Group fit_iq4_nl(const float* values, const float* importance) {
  Iq4Group group;
  const float* weights = importance ? importance : kAlike.data();
  group.scale = to_f16(std::clamp(fit_group<Table, 32>(values, weights), -65504.0f, 65504.0f));
  assign<Table, 32>(values, to_float(group.scale), group.quants);
  return group;
}

}  // namespace sdcore::quant
