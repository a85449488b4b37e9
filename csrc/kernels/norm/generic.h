// The normalization loops, once for every vector class. Vectors run along the channels.
#pragma once

#include "kernels/elementwise/activation.h"
#include "kernels/norm/kernel.h"

namespace sdcore::norm {

template <class V>
struct Loops {
  using F = typename V::F;

  // A vector of n <= width elements; n == width is the common case and costs no mask.
  template <class T>
  SDCORE_SIMD F load(const T* p, int64_t n) {
    return n == V::width ? V::load(p) : V::load_n(p, n);
  }
  template <class T>
  SDCORE_SIMD void store(T* p, F x, int64_t n) {
    if (n == V::width) return V::store(p, x);
    V::store_n(p, x, n);
  }
  // Calls body(i, n) for each vector of c channels.
  template <class Body>
  SDCORE_SIMD void for_channels(int64_t c, Body body) {
    int64_t i = 0;
    for (; i + V::width <= c; i += V::width) body(i, int64_t{V::width});
    if (i < c) body(i, c - i);
  }

  // Calls body(first element, pixels) for each run of pixels of one image row.
  template <class T, class Body>
  SDCORE_SIMD void for_runs(const Pixels<const void>& in, int64_t begin, int64_t end, Body body) {
    while (begin < end) {
      const int64_t y = begin / in.w, x = begin % in.w;
      const int64_t count = in.w - x < end - begin ? in.w - x : end - begin;
      body(static_cast<const T*>(in.data) + y * in.stride_h + x * in.stride_w, count);
      begin += count;
    }
  }

  // Adds `rows` adjacent pixels to the sums; several at a time spare loads and stores of the sums.
  template <int rows, class T>
  SDCORE_SIMD void add_pixels(const T* x, int64_t stride, int64_t c, const ChunkSums& s) {
    for_channels(c, [&](int64_t i, int64_t n) {
      const F shift = load(s.shift + i, n);
      F sum = load(s.sum + i, n), square = load(s.square + i, n);
      for (int r = 0; r < rows; ++r) {
        const F d = V::sub(load(x + r * stride + i, n), shift);
        sum = V::add(sum, d);
        square = V::fma(d, d, square);
      }
      store(s.sum + i, sum, n);
      store(s.square + i, square, n);
    });
  }

  template <class T>
  static void add_chunk(const Pixels<const void>& in, int64_t begin, int64_t end, int64_t c,
                        const ChunkSums& s) {
    for_runs<T>(in, begin, end, [&](const T* x, int64_t count) {
      for (; count >= 4; count -= 4, x += 4 * in.stride_w) add_pixels<4>(x, in.stride_w, c, s);
      for (; count > 0; --count, x += in.stride_w) add_pixels<1>(x, in.stride_w, c, s);
    });
  }

  static void chunk_sums(const Pixels<const void>& in, int64_t begin, int64_t end, int64_t c,
                         const ChunkSums& s) {
    const int64_t samples = end - begin < kShiftPixels ? end - begin : kShiftPixels;
    const F inverse = V::set(1.0f / static_cast<float>(samples));
    const auto clear = [&](float* values) {
      for_channels(c, [&](int64_t i, int64_t n) { store(values + i, V::zero(), n); });
    };
    simd::with_type<V>(in.dtype, [&]<class T>(T) {
      clear(s.shift);
      clear(s.sum);
      clear(s.square);
      for (int64_t k = 0; k < samples; ++k) {
        const int64_t pixel = begin + k * (end - begin) / samples;
        add_chunk<T>(in, pixel, pixel + 1, c, s);
      }
      for_channels(c, [&](int64_t i, int64_t n) {
        store(s.shift + i, V::mul(load(s.sum + i, n), inverse), n);
      });
      clear(s.sum);
      clear(s.square);
      add_chunk<T>(in, begin, end, c, s);
    });
  }

  // Calls body(in, out) with T and Out pointers for every pixel.
  template <class T, class Out, class Body>
  SDCORE_SIMD void for_pixels(const Pixels<const void>& in, const Pixels<void>& out, int64_t begin,
                              int64_t end, Body body) {
    for_runs<T>(in, begin, end, [&](const T* x, int64_t count) {
      Out* y =
          static_cast<Out*>(out.data) + begin / in.w * out.stride_h + begin % in.w * out.stride_w;
      begin += count;
      for (; count > 0; --count, x += in.stride_w, y += out.stride_w) body(x, y);
    });
  }

  template <class Body>
  SDCORE_SIMD void with_types(DType in, DType out, Body body) {
    simd::with_type<V>(in, [&]<class T>(T) {
      simd::with_type<V>(out, [&]<class Out>(Out) { body(T{}, Out{}); });
    });
  }

  static void affine(const Pixels<const void>& in, const Pixels<void>& out, int64_t begin,
                     int64_t end, int64_t c, const Affine& k, Activation activation) {
    with_types(in.dtype, out.dtype, [&]<class T, class Out>(T, Out) {
      simd::with_activation<V>(activation, [&]<class Tag>(Tag) {
        for_pixels<T, Out>(in, out, begin, end, [&](const T* x, Out* y) {
          for_channels(c, [&](int64_t i, int64_t n) {
            const F d = V::sub(load(x + i, n), load(k.shift + i, n));
            const F z = V::fma(d, load(k.scale + i, n), load(k.bias + i, n));
            store(y + i, simd::activate<V, Tag::activation>(z), n);
          });
        });
      });
    });
  }

  template <class T>
  SDCORE_SIMD float mean_of(const T* x, int64_t c) {
    F sum = V::zero();
    for_channels(c, [&](int64_t i, int64_t n) { sum = V::add(sum, load(x + i, n)); });
    return V::sum(sum) / static_cast<float>(c);
  }

  struct RowSums {
    float sum, square;  // of d and d^2, d = x - shift
  };
  template <class T>
  SDCORE_SIMD RowSums sums_about(const T* x, int64_t c, float shift) {
    const F m = V::set(shift);
    F sum = V::zero(), square = V::zero();
    int64_t i = 0;
    for (; i + V::width <= c; i += V::width) {
      const F d = V::sub(V::load(x + i), m);
      sum = V::add(sum, d);
      square = V::fma(d, d, square);
    }
    RowSums s{V::sum(sum), V::sum(square)};
    for (; i < c; ++i) {
      const float d = to_float(x[i]) - shift;
      s.sum += d;
      s.square += d * d;
    }
    return s;
  }

  static void layer_norm(const Pixels<const void>& in, const Pixels<void>& out, int64_t begin,
                         int64_t end, int64_t c, const LayerNorm& k) {
    with_types(in.dtype, out.dtype, [&]<class T, class Out>(T, Out) {
      for_pixels<T, Out>(in, out, begin, end, [&](const T* x, Out* y) {
        // The rounded mean is the shift; what it missed comes out of the sums about it.
        const float shift = mean_of(x, c), inverse = 1.0f / static_cast<float>(c);
        const RowSums s = sums_about(x, c, shift);
        const float rest = s.sum * inverse, variance = s.square * inverse - rest * rest;
        const float scale = 1.0f / std::sqrt(variance + k.eps);
        const F offset = V::set(-rest * scale);
        for_channels(c, [&](int64_t i, int64_t n) {
          F z = V::fma(V::sub(load(x + i, n), V::set(shift)), V::set(scale), offset);
          if (k.weight) z = V::mul(z, load(k.weight + i, n));
          if (k.bias) z = V::add(z, load(k.bias + i, n));
          store(y + i, z, n);
        });
      });
    });
  }

  template <class T>
  SDCORE_SIMD float mean_square(const T* x, int64_t c) {
    F sum = V::zero();
    for_channels(c, [&](int64_t i, int64_t n) {
      const F a = load(x + i, n);
      sum = V::fma(a, a, sum);
    });
    return V::sum(sum) / static_cast<float>(c);
  }

  static void rms_norm(const Pixels<const void>& in, const Pixels<void>& out, int64_t begin,
                       int64_t end, int64_t c, const RmsNorm& k) {
    with_types(in.dtype, out.dtype, [&]<class T, class Out>(T, Out) {
      for_pixels<T, Out>(in, out, begin, end, [&](const T* x, Out* y) {
        for (int64_t first = 0; first < c; first += k.size, x += k.size, y += k.size) {
          const F scale = V::set(1.0f / std::sqrt(mean_square(x, k.size) + k.eps));
          for_channels(k.size, [&](int64_t i, int64_t n) {
            store(y + i, V::mul(V::mul(load(x + i, n), scale), load(k.weight + i, n)), n);
          });
        }
      });
    });
  }

  static float to_float(float x) { return x; }
  static float to_float(bf16 x) { return sdcore::to_float(x); }

  static constexpr Kernel kernel(Isa isa) {
    return {isa, chunk_sums, affine, layer_norm, rms_norm};
  }
};

}  // namespace sdcore::norm
