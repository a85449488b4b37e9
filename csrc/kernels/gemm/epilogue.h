// What happens to a tile of sums on its way out, over any vector class. Included only from files of
// one instruction set.
#pragma once

#include "kernels/gemm/engine.h"
#include "simd/math.h"

namespace sdcore::gemm {

template <class V, Activation kind>
SDCORE_SIMD typename V::F activate(typename V::F x) {
  const auto half = V::set(0.5f);
  if constexpr (kind == Activation::silu) {
    return V::mul(x, simd::sigmoid<V>(x));
  } else if constexpr (kind == Activation::gelu) {
    const auto erf = simd::erf<V>(V::mul(x, V::set(0.70710678118654752f)));
    return V::mul(V::mul(half, x), V::add(V::set(1.0f), erf));
  } else if constexpr (kind == Activation::gelu_tanh) {
    // 0.5 (1 + tanh(u)) = sigmoid(2u)
    const auto cubic = V::fma(V::mul(V::set(0.044715f), V::mul(x, x)), x, x);
    return V::mul(x, simd::sigmoid<V>(V::mul(V::set(1.59576912160573071f), cubic)));
  } else if constexpr (kind == Activation::quick_gelu) {
    return V::mul(x, simd::sigmoid<V>(V::mul(V::set(1.702f), x)));
  } else if constexpr (kind == Activation::relu) {
    return V::max(x, V::zero());
  } else {
    return x;
  }
}

template <class V, class T>
SDCORE_SIMD typename V::F load_some(const T* p, int64_t n) {
  return n >= V::width ? V::load(p) : V::load_n(p, n);
}

template <class V>
SDCORE_SIMD typename V::F load_view(const View& view, int64_t at, int64_t n) {
  if (view.dtype == DType::bf16) return load_some<V>(static_cast<const bf16*>(view.data) + at, n);
  return load_some<V>(static_cast<const float*>(view.data) + at, n);
}

template <class V>
SDCORE_SIMD void store_view(const View& view, int64_t at, typename V::F x, int64_t n) {
  if (view.dtype == DType::bf16) {
    bf16* p = static_cast<bf16*>(view.data) + at;
    n >= V::width ? V::store(p, x) : V::store_n(p, x, n);
  } else {
    float* p = static_cast<float*>(view.data) + at;
    n >= V::width ? V::store(p, x) : V::store_n(p, x, n);
  }
}

template <class V, Activation kind>
void store_rows(const Product& product, const Row* rows, int count, const float* sums,
                int64_t sums_stride, int64_t column, int64_t columns) {
  const Epilogue& e = product.epilogue;
  for (int r = 0; r < count; ++r, sums += sums_stride) {
    if (rows[r].out < 0) continue;
    for (int64_t j = 0; j < columns; j += V::width) {
      const int64_t n = columns - j;
      const int64_t at = column + j;
      auto x = V::load(sums + j);
      if (e.bias) x = V::add(x, load_some<V>(e.bias + at, n));
      if (e.image_bias.data) {
        x = V::add(x, load_view<V>(e.image_bias, rows[r].image_bias + at, n));
      }
      x = activate<V, kind>(x);
      if (e.residual.data) x = V::add(x, load_view<V>(e.residual, rows[r].residual + at, n));
      store_view<V>(product.out, rows[r].out + at, x, n);
    }
  }
}

// Columns [column, column + columns) of `count` rows, from `sums` whose rows are sums_stride apart
// and readable to the end of a vector.
template <class V>
void store_tile(const Product& product, const Row* rows, int count, const float* sums,
                int64_t sums_stride, int64_t column, int64_t columns) {
  const auto store = [&]<Activation kind>() {
    store_rows<V, kind>(product, rows, count, sums, sums_stride, column, columns);
  };
  switch (product.epilogue.activation) {
    case Activation::none:
      return store.template operator()<Activation::none>();
    case Activation::silu:
      return store.template operator()<Activation::silu>();
    case Activation::gelu:
      return store.template operator()<Activation::gelu>();
    case Activation::gelu_tanh:
      return store.template operator()<Activation::gelu_tanh>();
    case Activation::quick_gelu:
      return store.template operator()<Activation::quick_gelu>();
    case Activation::relu:
      return store.template operator()<Activation::relu>();
  }
}

}  // namespace sdcore::gemm
