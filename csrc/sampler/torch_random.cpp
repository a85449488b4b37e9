// The formulas are those of PyTorch's ATen/core/DistributionsHelper.h (fewer than 16 numbers) and
// ATen/native/cpu/DistributionTemplates.h (16 and more: Box and Muller over blocks of 16, with the
// float polynomials of Cephes as its AVX2 build evaluates them). Which products are fused with the
// sum that follows is part of the result: std::fma stands where that build has a fused operation,
// and nowhere else (the whole of sdcore is built without contraction).
#include "sampler/torch_random.h"

#include <bit>
#include <cmath>
#include <numbers>

namespace sdcore {
namespace {

constexpr int64_t kBlock = 16;

// ln(x) for x in (0, 1], Cephes logf.
float cephes_log(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  float exponent = static_cast<float>(static_cast<int32_t>(bits >> 23) - 126);
  float m = std::bit_cast<float>((bits & 0x007fffffu) | 0x3f000000u);  // in [0.5, 1)
  if (m < 0.707106781186547524f) {
    exponent -= 1.0f;
    m = (m - 1.0f) + m;
  } else {
    m -= 1.0f;
  }
  const float m2 = m * m;
  float p = 7.0376836292e-2f;
  p = std::fma(p, m, -1.1514610310e-1f);
  p = std::fma(p, m, 1.1676998740e-1f);
  p = std::fma(p, m, -1.2420140846e-1f);
  p = std::fma(p, m, 1.4249322787e-1f);
  p = std::fma(p, m, -1.6668057665e-1f);
  p = std::fma(p, m, 2.0000714765e-1f);
  p = std::fma(p, m, -2.4999993993e-1f);
  p = std::fma(p, m, 3.3333331174e-1f);
  p = p * m;
  p = std::fma(p, m2, exponent * -2.12194440e-4f);
  p = std::fma(-m2, 0.5f, p);
  return std::fma(exponent, 0.693359375f, m + p);
}

struct SinCos {
  float sin, cos;
};

// For x in [0, 2 pi), Cephes sinf and cosf.
SinCos cephes_sincos(float x) {
  // The octant, rounded up to an even one, so that what is left lies in [-pi/4, pi/4].
  const int32_t octant = (static_cast<int32_t>(x * 1.27323954473516f) + 1) & ~1;
  const float y = static_cast<float>(octant);
  float r = std::fma(y, -0.78515625f, x);
  r = std::fma(y, -2.4187564849853515625e-4f, r);
  r = std::fma(y, -3.77489497744594108e-8f, r);

  const float r2 = r * r;
  float c = 2.443315711809948e-5f;
  c = std::fma(c, r2, -1.388731625493765e-3f);
  c = std::fma(c, r2, 4.166664568298827e-2f);
  c = c * r2;
  c = std::fma(c, r2, -(r2 * 0.5f)) + 1.0f;

  float s = -1.9515295891e-4f;
  s = std::fma(s, r2, 8.3321608736e-3f);
  s = std::fma(s, r2, -1.6666654611e-1f);
  s = s * r2;
  s = std::fma(s, r, r);

  const bool swapped = (octant & 2) != 0;
  const float sine = swapped ? c : s;
  const float cosine = swapped ? s : c;
  return {(octant & 4) != 0 ? -sine : sine, ((octant - 2) & 4) == 0 ? -cosine : cosine};
}

// Sixteen uniform numbers into sixteen normal ones: numbers j and j + 8 make a pair.
void box_muller(float* block) {
  constexpr float two_pi = static_cast<float>(2.0 * std::numbers::pi);
  for (int j = 0; j < 8; ++j) {
    const float radius = std::sqrt(-2.0f * cephes_log(1.0f - block[j]));
    const SinCos angle = cephes_sincos(two_pi * block[j + 8]);
    // torch adds the mean, 0, which turns -0 into 0.
    block[j] = radius * angle.cos + 0.0f;
    block[j + 8] = radius * angle.sin + 0.0f;
  }
}

}  // namespace

TorchRandom::TorchRandom(uint64_t seed) : engine_(static_cast<uint32_t>(seed)) {}

float TorchRandom::uniform_float() { return static_cast<float>(engine_() & 0xffffffu) * 0x1p-24f; }

double TorchRandom::uniform_double() {
  const uint64_t high = engine_();
  const uint64_t bits = (high << 32) | engine_();
  return static_cast<double>(bits & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
}

double TorchRandom::normal_double() {
  if (spare_) {
    const double value = *spare_;
    spare_.reset();
    return value;
  }
  const double angle = 2.0 * std::numbers::pi * uniform_double();
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform_double()));
  spare_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

void TorchRandom::normal(float* out, int64_t count) {
  if (count < kBlock) {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(normal_double());
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = uniform_float();
  for (int64_t i = 0; i + kBlock <= count; i += kBlock) box_muller(out + i);
  if (count % kBlock != 0) {
    // torch draws the last sixteen anew, over some that were already done.
    float* last = out + count - kBlock;
    for (int64_t i = 0; i < kBlock; ++i) last[i] = uniform_float();
    box_muller(last);
  }
}

}  // namespace sdcore
