// What happens to a tile of sums on its way out, over any vector class. Included only from files of
// one instruction set.
#pragma once

#include "kernels/elementwise/activation.h"
#include "kernels/gemm/engine.h"

namespace sdcore::gemm {

// A panel's row of values, as vectors.
template <class V, int count>
struct Values {
  typename V::F v[count];

  template <class T>
  SDCORE_SIMD typename V::F load_some(const T* p, int64_t n) {
    return n >= V::width ? V::load(p) : n > 0 ? V::load_n(p, n) : V::zero();
  }

  // The first n values at p: all of them where `full`.
  template <bool full, class T>
  [[gnu::always_inline]] void add(const T* p, int64_t n) {
#pragma GCC unroll 8
    for (int j = 0; j < count; ++j) {
      const auto x =
          full ? V::load(p + j * V::width) : load_some(p + j * V::width, n - j * V::width);
      v[j] = V::add(v[j], x);
    }
  }
  template <bool full>
  [[gnu::always_inline]] void add(const View& view, int64_t at, int64_t n) {
    if (view.dtype == DType::bf16) {
      add<full>(static_cast<const bf16*>(view.data) + at, n);
    } else {
      add<full>(static_cast<const float*>(view.data) + at, n);
    }
  }
  template <bool full, class T>
  [[gnu::always_inline]] void store(T* p, int64_t n, [[maybe_unused]] bool past_caches) const {
    if constexpr (full && requires { V::store_all(p, v, true); }) {
      V::store_all(p, v, past_caches);
    } else {
#pragma GCC unroll 8
      for (int j = 0; j < count; ++j, p += V::width, n -= V::width) {
        if (full || n >= V::width) {
          V::store(p, v[j]);
        } else if (n > 0) {
          V::store_n(p, v[j], n);
        }
      }
    }
  }
};

// Rows whose sums are complete and have not been stored. A kernel stores them between its own
// multiplications, where they cost little, and must be done before it overwrites their sums.
template <class V, int panel>
class Pending {
 public:
  Pending(const Product& product) : product_(product), store_(choose(product)) {}

  int64_t left() const { return left_; }

  void begin(const Row* rows, const float* sums, int64_t count, int64_t column, int64_t columns) {
    rows_ = rows;
    sums_ = sums;
    left_ = count;
    column_ = column;
    columns_ = columns;
  }

  [[gnu::always_inline]] void some(int64_t count) {
    if (count > left_) count = left_;
    if (count > 0) (this->*store_)(count);
  }

 private:
  using Store = void (Pending::*)(int64_t count);

  template <bool full, int vectors>
  [[gnu::always_inline]] void put(const Values<V, vectors>& x, int64_t at, int64_t n,
                                  bool past_caches) const {
    const View& out = product_.out;
    if (out.dtype == DType::bf16) {
      x.template store<full>(static_cast<bf16*>(out.data) + at, n, past_caches);
    } else {
      x.template store<full>(static_cast<float*>(out.data) + at, n, past_caches);
    }
  }

  template <Activation kind>
  void store(int64_t count) {
    columns_ == panel ? store_rows<kind, true>(count) : store_rows<kind, false>(count);
  }

  template <Activation kind, bool full>
  void store_rows(int64_t count) {
    constexpr int vectors = panel / V::width;
    const Epilogue& e = product_.epilogue;
    const bool past_caches = product_.past_caches;
    Values<V, vectors> bias{};
    if (e.bias) bias.template add<full>(e.bias + column_, columns_);
    left_ -= count;
    for (; count > 0; --count, ++rows_, sums_ += panel) {
      if (rows_->out < 0) continue;
      Values<V, vectors> x = bias;
      x.template add<true>(sums_, panel);
      if (e.image_bias.data) {
        x.template add<full>(e.image_bias, rows_->image_bias + column_, columns_);
      }
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) x.v[j] = simd::activate<V, kind>(x.v[j]);
      if (e.residual.data) x.template add<full>(e.residual, rows_->residual + column_, columns_);
      put<full>(x, rows_->out + column_, columns_, past_caches);
    }
  }

  // Of gated products, half of whose outputs are values and half their gates: a vector of each.
  void store_gated(int64_t count) {
    if constexpr (panel == 2 * V::width) {
      const Epilogue& e = product_.epilogue;
      const int64_t column = column_ / 2, gates = product_.outputs / 2 + column;
      const auto bias = [&](int64_t at) { return e.bias ? V::load(e.bias + at) : V::zero(); };
      const auto value_bias = bias(column), gate_bias = bias(gates);
      left_ -= count;
      for (; count > 0; --count, ++rows_, sums_ += panel) {
        if (rows_->out < 0) continue;
        const auto value = V::add(V::load(sums_), value_bias);
        const auto gate = V::add(V::load(sums_ + V::width), gate_bias);
        Values<V, 1> x{{V::mul(value, simd::gelu_coarse<V>(gate))}};
        if (e.image_bias.data) {
          x.template add<true>(e.image_bias, rows_->image_bias + column, V::width);
        }
        if (e.activation != Activation::none) {
          simd::with_activation<V>(
              e.activation, [&](auto tag) { x.v[0] = simd::activate<V, tag.activation>(x.v[0]); });
        }
        if (e.residual.data) x.template add<true>(e.residual, rows_->residual + column, V::width);
        put<true>(x, rows_->out + column, V::width, false);
      }
    }
  }

  static Store choose(const Product& product) {
    if (product.gated) return &Pending::store_gated;
    switch (product.epilogue.activation) {
      case Activation::none:
        break;
      case Activation::silu:
        return &Pending::store<Activation::silu>;
      case Activation::gelu:
        return &Pending::store<Activation::gelu>;
      case Activation::gelu_tanh:
        return &Pending::store<Activation::gelu_tanh>;
      case Activation::quick_gelu:
        return &Pending::store<Activation::quick_gelu>;
      case Activation::relu:
        return &Pending::store<Activation::relu>;
    }
    return &Pending::store<Activation::none>;
  }

  const Product& product_;
  Store store_;
  const Row* rows_ = nullptr;
  const float* sums_ = nullptr;
  int64_t left_ = 0, column_ = 0, columns_ = 0;
};

}  // namespace sdcore::gemm
