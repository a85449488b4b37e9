// Scores to weights in AMX's attention, as integers of 16 bits. Included only from the file of that
// instruction set.
#pragma once

#include <array>

#include "kernels/attention/tiles_amx.h"
#include "simd/math.h"

namespace sdcore::attention_kernels {
namespace {

constexpr int kRows = 2;  // queries whose weights are made between two products

// Scores become exponents in fixed point, of 16 bits: x is of the weight 2^(x / 256 - 127), as in a
// bf16's bits but for 8 bits of fraction in place of 7. The top score of a query has a weight of
// 2^-16: one 2^17 times as heavy sets the sign bit, and asks for a new top; one less than 2^-110 of
// it is 0. While products run only one port adds floats, but both add integers.
constexpr float kUnit = 256, kTop = 111 * kUnit, kFar = 128 * kUnit;
constexpr float kInteger = 0x1.8p23f;       // a float that so begins ends in an integer
constexpr float kMost = 0x1p22f;            // of exponents, in their units, without care
constexpr float kLeast = -1, kAll = 65535;  // of careful ones

// A bf16's fraction is 2^f - 1, and not f. By the first 6 bits of f, what makes one of the other,
// f (1 - f) (0.3069 + 0.0795 f) less to within 1e-4, in 256ths; plus `kBend`, which exponents are
// less, so that it is not negative.
constexpr int kBend = 23;
constexpr auto kBends = [] {
  std::array<uint8_t, 64> bends{};
  for (int i = 0; i < 64; ++i) {
    const double f = (4 * i + 1.5 + kBend) / 256, g = f < 1 ? f : f - 1;
    bends[static_cast<size_t>(i)] =
        static_cast<uint8_t>(kBend + 0.5 - 256 * g * (1 - g) * (0.3069 + 0.0795 * g));
  }
  return bends;
}();

// The exponents of 32 scores, in the order that packing leaves them in, which is that of `key_at`.
SDCORE_SIMD __m512i exponents_of(F low, F high, __mmask32 places) {
  const auto integer = [](F x) __attribute__((always_inline)) {
    return _mm512_sub_epi32(_mm512_castps_si512(x), _mm512_castps_si512(V::set(kInteger)));
  };
  return _mm512_maskz_packus_epi32(places, integer(low), integer(high));
}
constexpr int64_t key_at(int64_t place) {
  return place / 8 * 4 + place % 4 + (place % 8 < 4 ? 0 : kLanes);
}
// The first `count` keys, and their places in that order.
uint32_t first_of(int64_t count) { return static_cast<uint32_t>((uint64_t{1} << count) - 1); }
__mmask32 places_of(int64_t count) {
  __mmask32 places = 0;
  for (int64_t place = 0; place < kPair; ++place) {
    if (key_at(place) < count) places |= 1u << place;
  }
  return places;
}

SDCORE_SIMD __m512i weights_of(__m512i exponents, __m512i bends) {
  const __m512i place = _mm512_srli_epi16(exponents, 2);
  const __m512i bend = _mm512_maskz_permutexvar_epi8(0x5555555555555555u, place, bends);
  return _mm512_avg_epu16(exponents, bend);  // which halves and rounds
}

// The weights of a group, some queries at a time. Careful ones bear scores of any size, infinite
// ones, and such as are not numbers.
template <bool careful>
class Exponentials {
 public:
  // `keys` of the group are there.
  [[gnu::always_inline]] Exponentials(const float* scores, const float* shift, F factor,
                                      int64_t keys, bf16* weights)
      : scores_(scores),
        shift_(shift),
        weights_(weights),
        factor_(factor),
        there_(first_of(keys)),
        places_(keys == kPair ? ~0u : places_of(keys)) {}

  // Of the next queries, if any are left.
  [[gnu::always_inline]] void operator()() {
    if (row_ == kPair) return;
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) row(row_ + i);
    row_ += kRows;
    simd::fence(weights_);
  }
  [[gnu::always_inline]] void finish() {
    while (row_ < kPair) (*this)();
  }

  // Once all are done: whether a score was far above the top.
  [[gnu::always_inline]] bool far() const { return _mm512_movepi16_mask(all_) != 0; }
  // The queries one of whose scores is not a number.
  [[gnu::always_inline]] uint32_t bad() const { return bad_; }

 private:
  [[gnu::always_inline]] void row(int64_t query) {
    const float* from = scores_ + query * kPair;
    const F shift = V::set(shift_[query]);
    F low = V::fma(V::load(from), factor_, shift);
    F high = V::fma(V::load(from + kLanes), factor_, shift);
    if constexpr (careful) {
      const unsigned not_numbers = _mm512_cmp_ps_mask(low, low, _CMP_UNORD_Q) |
                                   _mm512_cmp_ps_mask(high, high, _CMP_UNORD_Q) << kLanes;
      if (not_numbers & there_) bad_ |= 1u << query;
      low = V::max(V::set(kInteger + kLeast), V::min(V::set(kInteger + kAll), low));
      high = V::max(V::set(kInteger + kLeast), V::min(V::set(kInteger + kAll), high));
    }
    const __m512i x = exponents_of(low, high, places_);
    all_ = _mm512_or_si512(all_, x);
    _mm512_store_si512(weights_ + query * kPair, weights_of(x, bends_));
  }

  const float *scores_, *shift_;
  bf16* weights_;
  F factor_;
  uint32_t there_;
  __mmask32 places_;
  uint32_t bad_ = 0;
  int64_t row_ = 0;
  __m512i all_ = _mm512_setzero_si512();  // bits of exponents
  __m512i bends_ = _mm512_loadu_si512(kBends.data());
};

// What is added to a query's scores under which one is the top.
float shift_of(float top) { return kInteger + (kTop - kBend) - top; }

// Of a query's scores with the first `keys`.
float highest(const float* scores, int64_t keys) {
  const F hidden = V::set(-HUGE_VALF);
  const auto half = [&](int64_t i) {
    const F x =
        _mm512_mask_loadu_ps(hidden, static_cast<__mmask16>(first_of(keys) >> i), scores + i);
    return V::max(x, hidden);  // which hides what is not a number
  };
  return V::max_lane(V::max(half(0), half(kLanes)));
}

// Makes a score the top of its query if it is far above it, and shrinks what was summed before.
void raise(const Sizes& s, float top, float* shift, float* out) {
  if (!(top + *shift >= kInteger + kFar)) return;
  const float raised = shift_of(top);
  // An infinite score makes the output NaN, as it does in the formula.
  const F shrink =
      V::add(simd::exp2_nonpositive<V>(V::set((raised - *shift) / kUnit)), V::set(top - top));
  *shift = raised;
  for (int64_t band = 0; band < s.bands; ++band) {
    V::store(out + band * kTileFloats, V::mul(V::load(out + band * kTileFloats), shrink));
  }
}

}  // namespace
}  // namespace sdcore::attention_kernels
