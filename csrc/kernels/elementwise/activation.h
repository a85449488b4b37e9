// Activations by their enum, over any vector class V.
#pragma once

#include "base/view.h"
#include "kernels/context.h"
#include "simd/math.h"

namespace sdcore::simd {

template <class V, Activation activation>
SDCORE_SIMD typename V::F activate(typename V::F x) {
  if constexpr (activation == Activation::silu) return silu<V>(x);
  if constexpr (activation == Activation::gelu) return gelu<V>(x);
  if constexpr (activation == Activation::gelu_tanh) return gelu_tanh<V>(x);
  if constexpr (activation == Activation::quick_gelu) return quick_gelu<V>(x);
  if constexpr (activation == Activation::relu) return relu<V>(x);
  return x;
}

template <Activation value>
struct ActivationTag {
  static constexpr Activation activation = value;
};

// Calls body(ActivationTag<a>) for the value at hand, so that loops are compiled once for each. V
// keeps instantiations of different instruction sets apart.
template <class V, class Body>
SDCORE_SIMD void with_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::none:
      return body(ActivationTag<Activation::none>{});
    case Activation::silu:
      return body(ActivationTag<Activation::silu>{});
    case Activation::gelu:
      return body(ActivationTag<Activation::gelu>{});
    case Activation::gelu_tanh:
      return body(ActivationTag<Activation::gelu_tanh>{});
    case Activation::quick_gelu:
      return body(ActivationTag<Activation::quick_gelu>{});
    case Activation::relu:
      return body(ActivationTag<Activation::relu>{});
  }
}

// Calls body(T{}) with T the element type.
template <class V, class Body>
SDCORE_SIMD void with_type(DType dtype, Body&& body) {
  if (dtype == DType::bf16) return body(bf16{});
  return body(float{});
}

}  // namespace sdcore::simd
