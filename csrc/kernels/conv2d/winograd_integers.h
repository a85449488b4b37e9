// Winograd's convolution with 16-bit integers at the points, for images in bf16: twice the products
// of float32 an instruction, from half the memory, and an error below that of bf16's own rounding.
//
// The sum of products of two vectors is at most the product of their norms (Cauchy and Schwarz). So
// that a block's sums never leave 32 bits, its integers are scaled to norms below 2^16 for patches,
// one scale a tile and block, and 2^15 for weights, one scale an output. Random numbers then have
// 12 bits and a sign, and nothing saturates. Blocks are added up in float32.
#pragma once

#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/conv2d/winograd_kernel.h"

namespace sdcore::winograd {

template <class Vector, int max_rows, int panel_vectors>
struct Integers {
  using V = Vector;
  using F = typename V::F;
  using I = typename V::I;
  using Element = int16_t;
  static constexpr int rows = max_rows, panel = panel_vectors * V::width;
  static constexpr int64_t group = 96;
  static constexpr bool integers = true;
  using Move = Moves<V, panel>;

  static constexpr int64_t kLine = 64;  // bytes of a cache line

  // With room for the rounding of 64 numbers.
  static constexpr float patch_norm = 65000, patch_limit = 32766, weight_norm = 32760;
  static_assert((patch_norm + 8) * (weight_norm + 8) < 2147483648.0f);

  // Channels c and c + width are a pair, in groups of both.
  static constexpr int64_t width = V::width, both = 2 * width;

  // Of sums of squares at the points, lane by lane.
  SDCORE_SIMD F largest(const F (&squares)[kPoints]) {
    F most = squares[0];
    for (int64_t point = 1; point < kPoints; ++point) most = V::larger(most, squares[point]);
    return most;
  }

  // ---- patches: [point][tile][channel] ----

  static void move_patch(const Job& job, int64_t tile) {
    for (int64_t block = 0; block < job.blocks(); ++block) {
      const bf16* from[kPoints];
      Move::find_patch(job, tile, block * kBlock, from);
      const int64_t left = job.channels - block * kBlock, count = left < kBlock ? left : kBlock;
      alignas(64) float moved[kPoints][kBlock];
      const float scale = scale_of(move_block(from, count, moved));
      *job.scales_at(block, tile) = scale;
      const F inverse = V::set(scale > 0.0f ? 1.0f / scale : 0.0f);
      int16_t* to = job.patches_at<int16_t>(block, 0, tile);
      for (int64_t point = 0; point < kPoints; ++point, to += job.point_stride) {
        for (int64_t c = 0; c < count; c += both) {
          const F low = V::load(moved[point] + c), high = V::load(moved[point] + c + width);
          V::store_bits(to + c, V::to_pairs(V::mul(low, inverse), V::mul(high, inverse)));
        }
      }
    }
  }

  // The scale of a tile, from the sums of squares that lanes have at most at any point. 0 for what
  // is next to nothing, NaN for what has no end.
  static float scale_of(F squares) {
    const float norm = std::sqrt(V::sum(squares)), most = std::sqrt(V::max_lane(squares));
    if (!(norm <= std::numeric_limits<float>::max())) {
      return std::numeric_limits<float>::quiet_NaN();
    }
    const float by_norm = norm / patch_norm, by_most = most / patch_limit;
    return by_norm > by_most ? by_norm : by_most;
  }

  // Up to a whole number of groups, with zeros at the end.
  static F move_block(const bf16* const (&from)[kPoints], int64_t count,
                      float (&moved)[kPoints][kBlock]) {
    F squares[kPoints] = {};
    int64_t c = 0;
    const auto put = [&](int64_t point, F x) {
      V::store(moved[point] + c, x);
      squares[point] = V::fma(x, x, squares[point]);
    };
    for (; c + width <= count; c += width) {
      Move::move_patch(from, c, [](const bf16* p) { return V::load(p); }, put);
    }
    for (; c % both != 0 || c < count; c += width) {
      const int64_t n = c < count ? count - c : 0;
      Move::move_patch(from, c, [n](const bf16* p) { return V::load_n(p, n); }, put);
    }
    return largest(squares);
  }

  // ---- weights: [point][pair of channels][output][2] ----

  // `use` with what reads a panel: bytes of quantized weights, else bf16.
  template <class Use>
  static auto with_taps(Type stored, bool offsets, Use use) {
    if (stored != gemm::kBytes) {
      return use.template operator()<typename Move::template FloatTaps<bf16>>();
    }
    return offsets ? use.template operator()<typename Move::template ByteTaps<true>>()
                   : use.template operator()<typename Move::template ByteTaps<false>>();
  }

  static void measure(const Job& job, int64_t number, float* norms) {
    const std::byte* of_panel = Move::panel_of(job, number);
    for (int64_t j = 0; j < panel; j += width) {
      F most = V::zero();
      for (int64_t begin = 0; begin < job.channels; begin += kBlock) {
        const int64_t end = begin + kBlock < job.channels ? begin + kBlock : job.channels;
        const auto squares = [&]<class Taps>() {
          return squares_of_block<Taps>(of_panel, begin, end, j);
        };
        most = V::larger(most, with_taps(job.product.stored, job.product.offsets, squares));
      }
      V::store(norms + j, most);
    }
    for (int64_t j = 0; j < panel; ++j) norms[j] = std::sqrt(norms[j]);
  }

  // Of a vector of outputs from j on, at the point where they are largest.
  template <class Taps>
  static F squares_of_block(const std::byte* of_panel, int64_t begin, int64_t end, int64_t j) {
    F squares[kPoints] = {};
    for (int64_t c = begin; c < end; ++c) {
      Move::move_weight(Taps(of_panel, c, j),
                        [&](int64_t point, F x) { squares[point] = V::fma(x, x, squares[point]); });
    }
    return largest(squares);
  }

  static void move_weights(const Job& job, int64_t number, int64_t begin, int64_t count,
                           int16_t* to, int64_t stride) {
    with_taps(job.product.stored, job.product.offsets,
              [&]<class Taps>() { move_weights_as<Taps>(job, number, begin, count, to, stride); });
  }

  template <class Taps>
  static void move_weights_as(const Job& job, int64_t number, int64_t begin, int64_t count,
                              int16_t* to, int64_t stride) {
    const std::byte* of_panel = Move::panel_of(job, number);
    for (int64_t j = 0; j < panel; j += width) {
      const float* norms = job.norms + number * panel + j;
      float inverse[width];
      for (int64_t i = 0; i < width; ++i) {
        inverse[i] = norms[i] > 0.0f ? weight_norm / norms[i] : 0.0f;
      }
      const F factor = V::load(inverse);
      for (int64_t c = 0; c < count; c += both) {
        const int64_t pairs = count - c < width ? count - c : width;
        for (int64_t i = 0; i < pairs; ++i) {
          const Taps low(of_panel, begin + c + i, j), high(of_panel, begin + c + i + width, j);
          if (j == 0) {
            // What hardware sees of the taps is too short for it to run ahead.
            low.prefetch_next_group();
            high.prefetch_next_group();
          }
          move_pair(low, high, factor, to + (c + 2 * i) * panel + 2 * j, stride);
        }
      }
    }
  }
  static_assert(gemm::kStep % both == 0, "a pair's channels are of one step of the panel");

  template <class Taps>
  static void move_pair(Taps low, Taps high, F factor, int16_t* to, int64_t stride) {
    F lows[kPatch][3], highs[kPatch][3];
    Move::move_weight_columns([&](int64_t tap) { return V::mul(low(tap), factor); }, lows);
    Move::move_weight_columns([&](int64_t tap) { return V::mul(high(tap), factor); }, highs);
#pragma GCC unroll 6
    for (int64_t y = 0; y < kPatch; ++y) {
      F moved_low[kPatch], moved_high[kPatch];
      Axis<V>::move_weight(lows[y], moved_low);
      Axis<V>::move_weight(highs[y], moved_high);
#pragma GCC unroll 6
      for (int64_t x = 0; x < kPatch; ++x) {
        V::store_bits(to + (y * kPatch + x) * stride, V::to_pairs(moved_low[x], moved_high[x]));
      }
    }
  }

  // ---- products ----

  static void multiply(const Job& job, const Product& product, const int16_t* weights, float* sums,
                       gemm::Pending<V, panel>&) {
    constexpr auto table = make_table(std::make_integer_sequence<int, max_rows>());
    const int64_t rest = product.channels % both;
    const int64_t pairs = product.channels / both * width + (rest < width ? rest : width);
    table[static_cast<size_t>(product.tiles - 1)](
        job.patches_at<int16_t>(product.block, product.point, product.tile), pairs, weights,
        job.scales_at(product.block, product.tile), sums, product.block > 0);
  }

  using Function = void (*)(const int16_t*, int64_t, const int16_t*, const float*, float*, bool);

  template <int... i>
  static constexpr std::array<Function, sizeof...(i)> make_table(std::integer_sequence<int, i...>) {
    return {&tile<i + 1>...};
  }

  template <int R>
  static void tile(const int16_t* a, int64_t pairs, const int16_t* weights, const float* scales,
                   float* sums, bool accumulate) {
    I dot[R][panel_vectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      // The sums, and the tiles of the next call.
#pragma GCC unroll 8
      for (int64_t i = 0; i < panel; i += kLine / 4) __builtin_prefetch(sums + r * panel + i, 1);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kBlock; i += kLine / 2) __builtin_prefetch(a + (R + r) * kBlock + i);
#pragma GCC unroll 8
      for (int j = 0; j < panel_vectors; ++j) dot[r][j] = I{};
    }
#pragma GCC unroll 4
    for (; pairs > 0; --pairs, a += 2, weights += 2 * panel) {
      I w[panel_vectors];
#pragma GCC unroll 8
      for (int j = 0; j < panel_vectors; ++j) w[j] = V::load_bits(weights + j * both);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const I x = V::broadcast(a + r * kBlock);
#pragma GCC unroll 8
        for (int j = 0; j < panel_vectors; ++j) dot[r][j] = V::dot_pairs(x, w[j], dot[r][j]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < panel_vectors; ++j) V::keep(dot[r][j]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const F scale = V::set(scales[r]);
#pragma GCC unroll 8
      for (int j = 0; j < panel_vectors; ++j) {
        float* sum = sums + r * panel + j * width;
        const F before = accumulate ? V::load(sum) : V::zero();
        V::store(sum, V::fma(scale, V::to_float(dot[r][j]), before));
      }
    }
  }

  static auto scale(const Job& job, int64_t number) {
    const float* norms = job.norms + number * panel;
    return [norms](F x, int64_t j) {
      return V::mul(x, V::mul(V::load(norms + j), V::set(1.0f / weight_norm)));
    };
  }
};

}  // namespace sdcore::winograd
