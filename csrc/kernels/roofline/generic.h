// As many independent sums as hide the latency of a multiply-add. Included only from files of one
// instruction set, with classes from their unnamed namespaces.
#pragma once

#include <utility>

#include "kernels/roofline/kernel.h"
#include "simd/scalar.h"

namespace sdcore::roofline {

// Madd has F, set(float), madd(a, b, sum), first(F) and operations, of one madd; and keep(F&),
// which asks the compiler to have it in a register here, where GCC would write sums to the stack.
// For the same reason they are written out one by one.
template <class Madd, int... j>
void multiply_each(int64_t rounds, std::integer_sequence<int, j...>) {
  using F = typename Madd::F;
  F sum[] = {Madd::set(static_cast<float>(j))...};
  const F a = Madd::set(1.0f);
  F b = Madd::set(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
    if constexpr (requires(F x) { Madd::keep(x); }) {
      // What multiplies and adds in two instructions would multiply once before the loop, unless b
      // seems another each time.
      ((Madd::keep(b), sum[j] = Madd::madd(a, b, sum[j])), ...);
      (Madd::keep(sum[j]), ...);
    } else {
      ((sum[j] = Madd::madd(a, b, sum[j])), ...);
    }
  }
  F total = Madd::set(0.0f);
  ((total = Madd::madd(total, b, sum[j])), ...);
  [[maybe_unused]] const volatile float keep = Madd::first(total);
}

template <class Madd, int sums>
void multiply(int64_t rounds) {
  multiply_each<Madd>(rounds, std::make_integer_sequence<int, sums>());
}

template <class Madd, int sums>
constexpr Kernel vector_kernel(const char* name, Isa isa) {
  return {name, isa, double{Madd::operations} * sums, &multiply<Madd, sums>};
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
