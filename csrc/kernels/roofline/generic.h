// As many independent sums as hide the latency of a multiply-add. Included only from files of one
// instruction set, with classes from their unnamed namespaces.
#pragma once

#include "kernels/roofline/kernel.h"
#include "simd/scalar.h"

namespace sdcore::roofline {

// Madd has F, zero(), set(float), madd(a, b, sum), first(F) and operations, of one madd.
template <class Madd, int sums>
void multiply(int64_t rounds) {
  using F = typename Madd::F;
  F sum[sums];
  for (F& s : sum) s = Madd::zero();
  F a = Madd::set(1.0f), b = Madd::set(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 32
    for (int j = 0; j < sums; ++j) sum[j] = Madd::madd(a, b, sum[j]);
  }
  F total = sum[0];
  for (int j = 1; j < sums; ++j) total = Madd::madd(total, b, sum[j]);
  [[maybe_unused]] const volatile float keep = Madd::first(total);
}

template <class Madd, int sums>
constexpr Kernel vector_kernel(const char* name, Isa isa, bool avx_vnni = false) {
  return {name, isa, double{Madd::operations} * sums, &multiply<Madd, sums>, avx_vnni};
}

template <class V>
struct Float : V {
  static constexpr int operations = 2 * V::width;
  SDCORE_SIMD typename V::F madd(typename V::F a, typename V::F b, typename V::F c) {
    return V::fma(a, b, c);
  }
  SDCORE_SIMD float first(typename V::F x) { return V::max_lane(x); }
};

}  // namespace sdcore::roofline
