// Elementary functions once, over any vector class V of this room. Relative error is a few units in
// the last place of float over the stated ranges; NaN gives NaN.
#pragma once

#include "simd/scalar.h"

namespace sdcore::simd {

template <class V>
SDCORE_SIMD typename V::F negate(typename V::F x) {
  return V::sub(V::zero(), x);
}

template <class V>
SDCORE_SIMD typename V::F abs(typename V::F x) {
  return V::max(negate<V>(x), x);
}

// Whether a lane of a is less than that of b: one that is NaN is not, and hides no other.
template <class V>
SDCORE_SIMD bool any_less(typename V::F a, typename V::F b) {
  return V::max_lane(V::select_less(a, b, V::set(1.0f), V::zero())) > 0.0f;
}

// 2^x for x <= 0, which is all that a softmax asks: nothing to clamp above, and below -126 the
// result fades to 0. Minimax polynomials of 2^f on [0, 1).
template <class V>
SDCORE_SIMD typename V::F exp2_nonpositive(typename V::F x) {
  typename V::F f;
  const auto k = V::split2(x, f);
  auto p = V::set(2.170225524e-4f);
  p = V::fma(p, f, V::set(1.243968789e-3f));
  p = V::fma(p, f, V::set(9.678840989e-3f));
  p = V::fma(p, f, V::set(5.548334199e-2f));
  p = V::fma(p, f, V::set(2.402298363e-1f));
  p = V::fma(p, f, V::set(6.931469838e-1f));
  p = V::fma(p, f, V::set(1.0f));
  return V::scale2(p, k);
}

// 2^x for x < 128 to a relative error of 2.6e-6, for results that are rounded to 16 bits.
template <class V>
SDCORE_SIMD typename V::F exp2_coarse(typename V::F x) {
  typename V::F f;
  const auto k = V::split2(x, f);
  auto p = V::set(1.353416775e-2f);
  p = V::fma(p, f, V::set(5.201146094e-2f));
  p = V::fma(p, f, V::set(2.414427567e-1f));
  p = V::fma(p, f, V::set(6.930038345e-1f));
  p = V::fma(p, f, V::set(1.000002593f));
  return V::scale2(p, k);
}

// e^x for x <= 0, to within a few units in the last place of x and of the result.
template <class V>
SDCORE_SIMD typename V::F exp_nonpositive(typename V::F x) {
  return exp2_nonpositive<V>(V::mul(x, V::set(1.44269504088896341f)));
}

// 1 / (1 + e^-x). Through e^-|x|, which cannot overflow: the far ends are 0 and 1.
template <class V>
SDCORE_SIMD typename V::F sigmoid(typename V::F x) {
  const auto one = V::set(1.0f);
  const auto e = exp_nonpositive<V>(negate<V>(abs<V>(x)));
  return V::div(V::select_less(x, V::zero(), e, one), V::add(one, e));
}

// erfc(a) = 1 - erf(a) for a >= 0, relative error below 2e-7 plus that of e^(-a^2). The polynomial
// is a minimax fit of e^(a^2) erfc(a) / t over t = 1 / (1 + 0.4 a), the form of Abramowitz and
// Stegun 7.1.26. `square` is a^2, which the caller may know better than a.
template <class V>
SDCORE_SIMD typename V::F erfc_nonnegative(typename V::F a, typename V::F square) {
  const auto one = V::set(1.0f);
  const auto t = V::div(one, V::fma(V::set(0.4f), a, one));
  auto p = V::set(4.026749333e-2f);
  p = V::fma(p, t, V::set(-1.354710738e-1f));
  p = V::fma(p, t, V::set(7.384211349e-2f));
  p = V::fma(p, t, V::set(9.972960842e-2f));
  p = V::fma(p, t, V::set(7.150829722e-2f));
  p = V::fma(p, t, V::set(1.969630266e-1f));
  p = V::fma(p, t, V::set(2.009585847e-1f));
  p = V::fma(p, t, V::set(2.265757095e-1f));
  p = V::fma(p, t, V::set(2.256262982e-1f));
  return V::mul(V::mul(p, t), exp_nonpositive<V>(negate<V>(square)));
}

// erf(x), absolute error below 2e-7.
template <class V>
SDCORE_SIMD typename V::F erf(typename V::F x) {
  const auto a = abs<V>(x);
  const auto y = V::sub(V::set(1.0f), erfc_nonnegative<V>(a, V::mul(a, a)));
  return V::select_less(x, V::zero(), negate<V>(y), y);
}

template <class V>
SDCORE_SIMD typename V::F silu(typename V::F x) {
  return V::mul(x, sigmoid<V>(x));
}

// x Phi(x), with Phi(-|x|) = erfc(|x| / sqrt 2) / 2, so that the negative tail keeps its digits.
template <class V>
SDCORE_SIMD typename V::F gelu(typename V::F x) {
  const auto a = abs<V>(x);
  const auto square = V::mul(V::mul(a, a), V::set(0.5f));
  const auto tail =
      V::mul(V::set(0.5f), erfc_nonnegative<V>(V::mul(a, V::set(0.70710678118654752f)), square));
  return V::mul(x, V::select_less(x, V::zero(), tail, V::sub(V::set(1.0f), tail)));
}

// x Phi(x) to an absolute error of 5e-5, for results that are rounded to 16 bits. The polynomial is
// a minimax fit of x (Phi(x) - 1/2) over x^2 that is 1/2 at 4.4, from where on it stays.
template <class V>
SDCORE_SIMD typename V::F gelu_coarse(typename V::F x) {
  const auto above = V::max(V::set(-4.4f), x);
  const auto near = V::min(V::set(4.4f), above);
  const auto square = V::mul(near, near);
  auto p = V::set(3.569425652e-11f);
  p = V::fma(p, square, V::set(-3.754045801e-9f));
  p = V::fma(p, square, V::set(1.740846106e-7f));
  p = V::fma(p, square, V::set(-4.724865744e-6f));
  p = V::fma(p, square, V::set(8.429298687e-5f));
  p = V::fma(p, square, V::set(-1.054992296e-3f));
  p = V::fma(p, square, V::set(9.643027219e-3f));
  p = V::fma(p, square, V::set(-6.607642862e-2f));
  p = V::fma(p, square, V::set(3.987616087e-1f));
  return V::mul(above, V::fma(near, p, V::set(0.5f)));
}

// 0.5 x (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
template <class V>
SDCORE_SIMD typename V::F gelu_tanh(typename V::F x) {
  const auto cubic =
      V::fma(V::mul(x, x), V::set(0.044715f * 1.5957691216057308f), V::set(1.5957691216057308f));
  return V::mul(x, sigmoid<V>(V::mul(x, cubic)));
}

template <class V>
SDCORE_SIMD typename V::F quick_gelu(typename V::F x) {
  return V::mul(x, sigmoid<V>(V::mul(x, V::set(1.702f))));
}

template <class V>
SDCORE_SIMD typename V::F relu(typename V::F x) {
  return V::max(V::zero(), x);
}

}  // namespace sdcore::simd
