// How a panel of weights lies for a kernel class (driver.h), and what brings weights there.
// Included only from files of one instruction set, with classes from their unnamed namespaces.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels/gemm/engine.h"
#include "simd/scalar.h"

namespace sdcore::gemm {

template <class Kernel>
struct PanelLayout {
  using V = typename Kernel::V;
  using Element = std::conditional_t<Kernel::pairs, uint16_t, float>;
  static constexpr int64_t step_elements = kStep * Kernel::panel;

  // Element (k, n) of a step. Pairs lie as AMX wants its B tiles: [16 outputs][k / 2][output][2].
  SDCORE_SIMD int64_t place(int64_t k, int64_t n) {
    if constexpr (Kernel::pairs) return (n / 16) * 512 + (k / 2) * 32 + (n % 16) * 2 + (k % 2);
    return k * Kernel::panel + n;
  }

  // As below, for a whole step of floats, or of pairs, that lie together in each row: squares of
  // them are transposed in registers.
  template <class T>
  static void interleave_whole(const T* rows, int64_t row_stride, T* out) {
    constexpr int64_t unit = 4 / sizeof(T), side = V::width;
    for (int64_t n = 0; n < Kernel::panel; n += side) {
      for (int64_t k = 0; k < kStep; k += side * unit) {
        typename V::Bits square[side];
#pragma GCC unroll 16
        for (int64_t i = 0; i < side; ++i) {
          square[i] = V::load_bits(rows + (n + i) * row_stride + k);
        }
        V::transpose(square);
#pragma GCC unroll 16
        for (int64_t i = 0; i < side; ++i) {
          V::store_bits(out + place(k + i * unit, n), square[i]);
        }
      }
    }
  }

  // One step from rows of weights: value (k, n) is rows[n * row_stride + k * stride].
  template <class T>
  static void interleave(const T* rows, int64_t row_stride, int64_t stride, int64_t channels,
                         T* out) {
    if constexpr (sizeof(T) == (Kernel::pairs ? 2 : 4)) {
      if (stride == 1 && channels == kStep) return interleave_whole(rows, row_stride, out);
    }
    if constexpr (Kernel::pairs) {
      for (int64_t k = 0; k < kStep; k += 2) {
        for (int64_t n = 0; n < Kernel::panel; ++n) {
          const T* from = rows + n * row_stride + k * stride;
          T* to = out + place(k, n);
          to[0] = k < channels ? from[0] : T{};
          to[1] = k + 1 < channels ? from[stride] : T{};
        }
      }
    } else {
      for (int64_t k = 0; k < kStep; ++k) {
        for (int64_t n = 0; n < Kernel::panel; ++n) {
          out[place(k, n)] = k < channels ? rows[n * row_stride + k * stride] : T{};
        }
      }
    }
  }

  template <class From, class To>
  static void convert(const From* from, int64_t count, To* to) {
    if constexpr (std::is_same_v<From, To>) {
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
    } else {
      // Files promise no alignment, and a plain load of one value would need it.
      From lanes[V::width] = {};
      for (int64_t i = 0; i < count; i += V::width) {
        const int64_t n = count - i < V::width ? count - i : V::width;
        if (n == V::width) {
          std::memcpy(lanes, from + i, sizeof(lanes));
          V::store(to + i, V::load(lanes));
        } else {
          std::memcpy(lanes, from + i, static_cast<size_t>(n) * sizeof(From));
          V::store_n(to + i, V::load(lanes), n);
        }
      }
    }
  }

  static void round(float* values, int64_t count) {
    bf16 rounded[V::width];
    for (int64_t i = 0; i < count; i += V::width) {
      V::store(rounded, V::load(values + i));
      V::store(values + i, V::load(rounded));
    }
  }
};

}  // namespace sdcore::gemm
