// Elementary functions once, over any vector class V of this room. Relative error is a few units in
// the last place of float over the stated ranges.
#pragma once

#include "simd/scalar.h"

namespace sdcore::simd {

// e^x. Below about -87.3 the result is 0 (no subnormals), above 88.7 it stays near the largest
// float.
template <class V>
SDCORE_SIMD typename V::F exp(typename V::F x) {
  const auto low = V::set(-87.33654f);
  const auto clamped = V::min(V::max(x, low), V::set(88.72283f));
  // x = k ln2 + r, |r| <= ln2 / 2; ln2 in two parts keeps r exact (Cody and Waite).
  const auto k = V::min(V::round(V::mul(clamped, V::set(1.44269504088896341f))), V::set(127.0f));
  auto r = V::fma(k, V::set(-0.693359375f), clamped);
  r = V::fma(k, V::set(2.12194440e-4f), r);
  // Minimax polynomial of e^r (Cephes expf).
  auto p = V::set(1.9875691500e-4f);
  p = V::fma(p, r, V::set(1.3981999507e-3f));
  p = V::fma(p, r, V::set(8.3334519073e-3f));
  p = V::fma(p, r, V::set(4.1665795894e-2f));
  p = V::fma(p, r, V::set(1.6666665459e-1f));
  p = V::fma(p, r, V::set(5.0000001201e-1f));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set(1.0f));
  return V::select_less(x, low, V::zero(), V::scale2(p, k));
}

// 1 / (1 + e^-x)
template <class V>
SDCORE_SIMD typename V::F sigmoid(typename V::F x) {
  return V::div(V::set(1.0f), V::add(V::set(1.0f), exp<V>(V::sub(V::zero(), x))));
}

// erf(x) by Abramowitz and Stegun 7.1.26's form with |error| < 1.5e-7.
template <class V>
SDCORE_SIMD typename V::F erf(typename V::F x) {
  const auto one = V::set(1.0f);
  const auto negative = V::sub(V::zero(), x);
  const auto a = V::max(x, negative);
  const auto t = V::div(one, V::fma(V::set(0.3275911f), a, one));
  auto p = V::set(1.061405429f);
  p = V::fma(p, t, V::set(-1.453152027f));
  p = V::fma(p, t, V::set(1.421413741f));
  p = V::fma(p, t, V::set(-0.284496736f));
  p = V::fma(p, t, V::set(0.254829592f));
  const auto y = V::sub(one, V::mul(V::mul(p, t), exp<V>(V::sub(V::zero(), V::mul(a, a)))));
  return V::select_less(x, V::zero(), V::sub(V::zero(), y), y);
}

}  // namespace sdcore::simd
