// Winograd's convolution over any tile kernel of float32. Included only from files of one
// instruction set, with classes from their unnamed namespaces.
#pragma once

#include "kernels/conv2d/winograd.h"
#include "kernels/gemm/vector_tile.h"

namespace sdcore::winograd {

// The points ±a and ±b, and what their polynomials need.
namespace points {
inline constexpr float a = 0.75f, b = 1.5f;
inline constexpr float aa = a * a, bb = b * b;
// Products of the distances between a point and the others.
inline constexpr float at_0 = aa * bb, at_a = 2 * aa * (aa - bb), at_b = 2 * bb * (bb - aa);
}  // namespace points

// Along one axis; the caller does the other one.
template <class V>
struct Axis {
  using F = typename V::F;

  // Six inputs to six points.
  SDCORE_SIMD void move_patch(const F (&d)[6], F (&out)[6]) {
    using namespace points;
    const F low = V::set(-aa), high = V::set(-bb);
    const F even_a = V::fma(high, d[2], d[4]), odd_a = V::fma(high, d[1], d[3]);
    const F even_b = V::fma(low, d[2], d[4]), odd_b = V::fma(low, d[1], d[3]);
    out[0] = V::fma(V::set(aa * bb), d[0], V::fma(V::set(-aa - bb), d[2], d[4]));
    out[1] = V::fma(V::set(a), odd_a, even_a);
    out[2] = V::fma(V::set(-a), odd_a, even_a);
    out[3] = V::fma(V::set(b), odd_b, even_b);
    out[4] = V::fma(V::set(-b), odd_b, even_b);
    out[5] = V::fma(V::set(aa * bb), d[1], V::fma(V::set(-aa - bb), d[3], d[5]));
  }

  // Three weights to six points.
  SDCORE_SIMD void move_weight(const F (&g)[3], F (&out)[6]) {
    using namespace points;
    const F even_a = V::fma(V::set(aa / at_a), g[2], V::mul(V::set(1 / at_a), g[0]));
    const F even_b = V::fma(V::set(bb / at_b), g[2], V::mul(V::set(1 / at_b), g[0]));
    out[0] = V::mul(V::set(1 / at_0), g[0]);
    out[1] = V::fma(V::set(a / at_a), g[1], even_a);
    out[2] = V::fma(V::set(-a / at_a), g[1], even_a);
    out[3] = V::fma(V::set(b / at_b), g[1], even_b);
    out[4] = V::fma(V::set(-b / at_b), g[1], even_b);
    out[5] = g[2];
  }

  // Six points to four outputs.
  SDCORE_SIMD void move_back(const F (&s)[6], F (&out)[4]) {
    using namespace points;
    const F even_a = V::add(s[1], s[2]), odd_a = V::sub(s[1], s[2]);
    const F even_b = V::add(s[3], s[4]), odd_b = V::sub(s[3], s[4]);
    out[0] = V::add(s[0], V::add(even_a, even_b));
    out[1] = V::fma(V::set(b), odd_b, V::mul(V::set(a), odd_a));
    out[2] = V::fma(V::set(bb), even_b, V::mul(V::set(aa), even_a));
    out[3] = V::fma(V::set(b * bb), odd_b, V::fma(V::set(a * aa), odd_a, s[5]));
  }
};

template <class Tile>
struct Winograd {
  using V = typename Tile::V;
  using F = typename V::F;
  static constexpr int64_t panel = Tile::panel;
  static constexpr int64_t weight_stride = kBlock * panel + kApart;
  static constexpr int64_t sums_stride = kGroup * panel + kApart;
  static constexpr int64_t pixels = kTile * kTile;

  struct Place {
    int64_t n, y, x;  // of a tile's first output
  };
  static Place place(const Job& job, int64_t tile) {
    const int64_t t = job.first + tile, in_image = t % job.image_tiles;
    return {t / job.image_tiles, in_image / job.tiles_w * kTile, in_image % job.tiles_w * kTile};
  }

  // ---- patches ----

  template <class T, class Load>
  SDCORE_SIMD void move_channels(const T* const (&from)[kPoints], int64_t c, float* to,
                                 int64_t stride, Load load) {
    F columns[kPatch][kPatch];
#pragma GCC unroll 6
    for (int64_t x = 0; x < kPatch; ++x) {
      F d[kPatch], moved[kPatch];
#pragma GCC unroll 6
      for (int64_t y = 0; y < kPatch; ++y) d[y] = load(from[y * kPatch + x] + c);
      Axis<V>::move_patch(d, moved);
#pragma GCC unroll 6
      for (int64_t y = 0; y < kPatch; ++y) columns[y][x] = moved[y];
    }
#pragma GCC unroll 6
    for (int64_t y = 0; y < kPatch; ++y) {
      F moved[kPatch];
      Axis<V>::move_patch(columns[y], moved);
#pragma GCC unroll 6
      for (int64_t x = 0; x < kPatch; ++x) V::store(to + (y * kPatch + x) * stride, moved[x]);
    }
  }

  template <class T>
  static void move_patch_as(const Job& job, int64_t tile) {
    alignas(64) static constexpr T outside[kBlock] = {};
    const Place at = place(job, tile);
    const View& in = job.in;
    for (int64_t block = 0; block < job.blocks(); ++block) {
      const int64_t begin = block * kBlock;
      const T* from[kPoints];
      for (int64_t i = 0; i < kPoints; ++i) {
        const int64_t y = at.y - job.pad_top + i / kPatch, x = at.x - job.pad_left + i % kPatch;
        const bool inside = y >= 0 && y < in.h && x >= 0 && x < in.w;
        from[i] = inside ? in.at<const T>(at.n, y, x) + begin : outside;
      }
      const int64_t left = job.channels - begin, count = left < kBlock ? left : kBlock;
      float* to = job.patches + block * kPoints * job.point_stride + tile * kBlock;
      int64_t c = 0;
      for (; c + V::width <= count; c += V::width) {
        move_channels(from, c, to + c, job.point_stride, [](const T* p) { return V::load(p); });
      }
      if (c < count) {
        move_channels(from, c, to + c, job.point_stride,
                      [n = count - c](const T* p) { return V::load_n(p, n); });
      }
    }
  }

  static void move_patch(const Job& job, int64_t tile) {
    if (job.in.dtype == DType::bf16) return move_patch_as<bf16>(job, tile);
    move_patch_as<float>(job, tile);
  }

  // ---- weights ----

  // `count` channels of a panel, [point][channel][output], from [32
  // channels][tap][channel][output].
  template <class T>
  static void move_weights_as(const Job& job, int64_t number, int64_t begin, int64_t count,
                              float* to) {
    const T* from =
        reinterpret_cast<const T*>(job.product.panels + number * job.product.panel_bytes);
    for (int64_t c = begin; c < begin + count; ++c) {
      const T* row = from + (c / gemm::kStep * 9 * gemm::kStep + c % gemm::kStep) * panel;
      float* out = to + (c - begin) * panel;
      for (int64_t j = 0; j < panel; j += V::width) {
        F columns[kPatch][3];
#pragma GCC unroll 3
        for (int64_t x = 0; x < 3; ++x) {
          F g[3], moved[kPatch];
#pragma GCC unroll 3
          for (int64_t y = 0; y < 3; ++y) {
            g[y] = V::load(row + (y * 3 + x) * gemm::kStep * panel + j);
          }
          Axis<V>::move_weight(g, moved);
#pragma GCC unroll 6
          for (int64_t y = 0; y < kPatch; ++y) columns[y][x] = moved[y];
        }
#pragma GCC unroll 6
        for (int64_t y = 0; y < kPatch; ++y) {
          F moved[kPatch];
          Axis<V>::move_weight(columns[y], moved);
#pragma GCC unroll 6
          for (int64_t x = 0; x < kPatch; ++x) {
            V::store(out + (y * kPatch + x) * weight_stride + j, moved[x]);
          }
        }
      }
    }
  }

  static void move_weights(const Job& job, int64_t number, int64_t begin, int64_t count,
                           float* to) {
    switch (job.product.stored) {
      case Type::f16:
        return move_weights_as<f16>(job, number, begin, count, to);
      case Type::bf16:
        return move_weights_as<bf16>(job, number, begin, count, to);
      default:
        return move_weights_as<float>(job, number, begin, count, to);
    }
  }

  // ---- products and outputs ----

  // What a thread holds: [point][channel][output], [point][tile][output] and [pixel][output].
  struct State {
    static constexpr int64_t floats =
        kPoints * (weight_stride + sums_stride) + kTile * kTile * panel;
    float *weights, *sums, *outputs;

    explicit State(std::byte* scratch)
        : weights(reinterpret_cast<float*>(scratch)),
          sums(weights + kPoints * weight_stride),
          outputs(sums + kPoints * sums_stride) {}
  };

  static void store(const Job& job, int64_t tile, const float* sums, float* outputs, int64_t column,
                    gemm::Pending<V, Tile::panel>& pending) {
    for (int64_t j = 0; j < panel; j += V::width) {
      F columns[kTile][kPatch];
#pragma GCC unroll 6
      for (int64_t x = 0; x < kPatch; ++x) {
        F s[kPatch], moved[kTile];
#pragma GCC unroll 6
        for (int64_t y = 0; y < kPatch; ++y) {
          s[y] = V::load(sums + (y * kPatch + x) * sums_stride + j);
        }
        Axis<V>::move_back(s, moved);
#pragma GCC unroll 4
        for (int64_t y = 0; y < kTile; ++y) columns[y][x] = moved[y];
      }
#pragma GCC unroll 4
      for (int64_t y = 0; y < kTile; ++y) {
        F moved[kTile];
        Axis<V>::move_back(columns[y], moved);
#pragma GCC unroll 4
        for (int64_t x = 0; x < kTile; ++x) {
          V::store(outputs + (y * kTile + x) * panel + j, moved[x]);
        }
      }
    }
    const Place at = place(job, tile);
    const View &out = job.product.out, &residual = job.product.epilogue.residual;
    gemm::Row rows[pixels];
    for (int64_t i = 0; i < pixels; ++i) {
      const int64_t y = at.y + i / kTile, x = at.x + i % kTile;
      const auto offset = [&](const View& v) {
        return at.n * v.stride_n + y * v.stride_h + x * v.stride_w;
      };
      rows[i] = {y < out.h && x < out.w ? offset(out) : -1, offset(residual),
                 at.n * job.product.epilogue.image_bias.stride_n};
    }
    const int64_t left = job.product.outputs - column;
    pending.begin(rows, outputs, pixels, column, left < panel ? left : panel);
    pending.some(pixels);
  }

  static void multiply(const Job& job, int64_t number, int64_t group, std::byte* scratch) {
    const State state(scratch);
    const int64_t begin = job.count * group / job.groups;
    const int64_t tiles = job.count * (group + 1) / job.groups - begin;
    const int64_t runs = (tiles + Tile::rows - 1) / Tile::rows;
    gemm::Pending<V, Tile::panel> pending(job.product);
    const Tile kernel(Tile::rows);
    for (int64_t block = 0; block < job.blocks(); ++block) {
      const int64_t left = job.channels - block * kBlock, count = left < kBlock ? left : kBlock;
      move_weights(job, number, block * kBlock, count, state.weights);
      gemm::Step steps[kBlock / gemm::kStep];
      int64_t step_count = 0;
      for (int64_t c = 0; c < count; c += gemm::kStep, ++step_count) {
        const int64_t channels = count - c < gemm::kStep ? count - c : gemm::kStep;
        steps[step_count] = {c * int64_t{sizeof(float)}, static_cast<int32_t>(channels), 1};
      }
      for (int64_t point = 0; point < kPoints; ++point) {
        const float* patches = job.patches + (block * kPoints + point) * job.point_stride;
        const auto* weights = reinterpret_cast<const char*>(state.weights + point * weight_stride);
        for (int64_t run = 0; run < runs; ++run) {
          const int64_t first = tiles * run / runs;
          const gemm::Tile tile{reinterpret_cast<const char*>(patches + (begin + first) * kBlock),
                                static_cast<int>(tiles * (run + 1) / runs - first)};
          kernel.multiply(&tile, 1, &tile, kBlock * int64_t{sizeof(float)}, steps, step_count,
                          weights, {}, panel, state.sums + point * sums_stride + first * panel,
                          block > 0, pending);
        }
      }
    }
    for (int64_t t = 0; t < tiles; ++t) {
      store(job, begin + t, state.sums + t * panel, state.outputs, number * panel, pending);
    }
  }

  static constexpr Kernel kernel(Isa isa) {
    return {isa, Tile::panel, State::floats * sizeof(float), move_patch, multiply};
  }
};

}  // namespace sdcore::winograd
