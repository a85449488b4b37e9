// The elementwise loops, once for every vector class.
#pragma once

#include "kernels/elementwise/activation.h"
#include "kernels/elementwise/kernel.h"

namespace sdcore::elementwise {

template <class V>
struct Loops {
  using F = typename V::F;

  // out[p][i] = fn(a[p][i], b[p][i]) with b at the same stride rules as a.
  template <class A, class B, class Out, class Fn>
  static void map(const Span& s, const void* b_data, int64_t b_stride, Fn fn) {
    for (int64_t p = 0; p < s.pixels; ++p) {
      const A* a = static_cast<const A*>(s.a.data) + p * s.a.stride;
      const B* b = static_cast<const B*>(b_data) + p * b_stride;
      Out* out = static_cast<Out*>(s.out.data) + p * s.out.stride;
      int64_t i = 0;
      for (; i + V::width <= s.c; i += V::width) {
        V::store(out + i, fn(V::load(a + i), V::load(b + i)));
      }
      if (const int64_t n = s.c - i; n > 0) {
        V::store_n(out + i, fn(V::load_n(a + i, n), V::load_n(b + i, n)), n);
      }
    }
  }

  // fn ignores its second argument, whose load the compiler then drops.
  template <class Fn>
  static void map1(const Span& s, Fn fn) {
    simd::with_type<V>(s.a.dtype, [&]<class A>(A) {
      simd::with_type<V>(s.out.dtype, [&]<class Out>(Out) {
        map<A, A, Out>(s, s.a.data, s.a.stride, [&](F x, F) { return fn(x); });
      });
    });
  }

  template <class Fn>
  static void map2(const Span& s, Fn fn) {
    simd::with_type<V>(s.a.dtype, [&]<class A>(A) {
      simd::with_type<V>(s.b.dtype, [&]<class B>(B) {
        simd::with_type<V>(s.out.dtype,
                           [&]<class Out>(Out) { map<A, B, Out>(s, s.b.data, s.b.stride, fn); });
      });
    });
  }

  static void unary(const Span& s, Activation activation) {
    simd::with_activation<V>(activation, [&]<class Tag>(Tag) {
      map1(s, [](F x) { return simd::activate<V, Tag::activation>(x); });
    });
  }

  static void binary(const Span& s, BinaryOp op) {
    switch (op) {
      case BinaryOp::add:
        return map2(s, [](F x, F y) { return V::add(x, y); });
      case BinaryOp::mul:
        return map2(s, [](F x, F y) { return V::mul(x, y); });
      case BinaryOp::prelu:
        return map2(s, [](F x, F y) { return V::select_less(V::zero(), x, x, V::mul(x, y)); });
    }
  }

  static void geglu(const Span& s) {
    simd::with_type<V>(s.a.dtype, [&]<class A>(A) {
      simd::with_type<V>(s.out.dtype, [&]<class Out>(Out) {
        map<A, A, Out>(s, static_cast<const A*>(s.a.data) + s.c, s.a.stride,
                       [](F x, F gate) { return V::mul(x, simd::gelu<V>(gate)); });
      });
    });
  }

  static void scale(const Span& s, float factor) {
    const F f = V::set(factor);
    map1(s, [&](F x) { return V::mul(x, f); });
  }

  static constexpr Kernel kernel(Isa isa) { return {isa, unary, binary, geglu, scale}; }
};

}  // namespace sdcore::elementwise
