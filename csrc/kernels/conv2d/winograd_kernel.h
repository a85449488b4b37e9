// Winograd's convolution, whatever numbers it multiplies at the points. Included only from files of
// one instruction set, with classes from their unnamed namespaces.
//
// Numbers says what they are:
//   V, Element            the vector class; a number at a point
//   rows, panel, group    tiles of a product, outputs of a panel, tiles that share moved weights
//   measure               what Kernel says, or null
//   move_patch(…)         a tile's patch to the points
//   move_weights(…)       a block of channels of a panel to the points
//   multiply(…)           adds a block's products of a few tiles at a point to their sums
//   scale(…)              what turns moved sums into outputs
#pragma once

#include "kernels/conv2d/winograd.h"
#include "kernels/gemm/byte_panels.h"
#include "kernels/gemm/epilogue.h"

namespace sdcore::winograd {

// The points ±a and ±b, and what their polynomials need.
namespace points {
inline constexpr float a = 0.75f, b = 1.5f;
inline constexpr float aa = a * a, bb = b * b;
// Weights at a point are divided by how much their norm can grow there, and the sums multiplied by
// it: so those of one output are about as large at all points, and integers can share a scale.
inline constexpr float norm_a = 1.3707320f, norm_b = 2.8831406f;  // of (1, a, aa), (1, b, bb)
inline constexpr float back_0 = 1 / (aa * bb);
inline constexpr float back_a = norm_a / (2 * aa * (aa - bb));
inline constexpr float back_b = norm_b / (2 * bb * (bb - aa));
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
    const F even_a = V::fma(V::set(aa / norm_a), g[2], V::mul(V::set(1 / norm_a), g[0]));
    const F even_b = V::fma(V::set(bb / norm_b), g[2], V::mul(V::set(1 / norm_b), g[0]));
    out[0] = g[0];
    out[1] = V::fma(V::set(a / norm_a), g[1], even_a);
    out[2] = V::fma(V::set(-a / norm_a), g[1], even_a);
    out[3] = V::fma(V::set(b / norm_b), g[1], even_b);
    out[4] = V::fma(V::set(-b / norm_b), g[1], even_b);
    out[5] = g[2];
  }

  // Six points to four outputs.
  SDCORE_SIMD void move_back(const F (&s)[6], F (&out)[4]) {
    using namespace points;
    const F even_a = V::add(s[1], s[2]), odd_a = V::sub(s[1], s[2]);
    const F even_b = V::add(s[3], s[4]), odd_b = V::sub(s[3], s[4]);
    const auto sum = [](float by_a, F of_a, float by_b, F of_b) {
      return V::fma(V::set(by_b), of_b, V::mul(V::set(by_a), of_a));
    };
    out[0] = V::fma(V::set(back_0), s[0], sum(back_a, even_a, back_b, even_b));
    out[1] = sum(back_a * a, odd_a, back_b * b, odd_b);
    out[2] = sum(back_a * aa, even_a, back_b * bb, even_b);
    out[3] = V::add(s[5], sum(back_a * aa * a, odd_a, back_b * bb * b, odd_b));
  }
};

// Tiles of a round that are multiplied at one point with one block of channels.
struct Product {
  int64_t block, point, channels;
  int64_t tile;
  int tiles;
};

// Both axes, and where a job's numbers lie. `panel` is of the weights.
template <class V, int panel>
struct Moves {
  using F = typename V::F;
  static constexpr int64_t pixels = kTile * kTile;

  struct Place {
    int64_t n, y, x;  // of a tile's first output
  };
  static Place place(const Job& job, int64_t tile) {
    const int64_t t = job.first + tile, in_image = t % job.image_tiles;
    return {t / job.image_tiles, in_image / job.tiles_w * kTile, in_image % job.tiles_w * kTile};
  }

  // Where channel `begin` of a patch's pixels is: of those outside the image, at zeros.
  template <class T>
  static void find_patch(const Job& job, int64_t tile, int64_t begin, const T* (&from)[kPoints]) {
    alignas(64) static constexpr T outside[kBlock] = {};
    const Place at = place(job, tile);
    const View& in = job.in;
    for (int64_t i = 0; i < kPoints; ++i) {
      const int64_t y = at.y - job.pad_top + i / kPatch, x = at.x - job.pad_left + i % kPatch;
      const bool inside = y >= 0 && y < in.h && x >= 0 && x < in.w;
      from[i] = inside ? in.at<const T>(at.n, y, x) + begin : outside;
    }
  }

  // A vector of channels of a patch, from channel c on; `put` takes a point and its vector.
  template <class T, class Load, class Put>
  SDCORE_SIMD void move_patch(const T* const (&from)[kPoints], int64_t c, Load load, Put put) {
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
      for (int64_t x = 0; x < kPatch; ++x) put(y * kPatch + x, moved[x]);
    }
  }

  static const std::byte* panel_of(const Job& job, int64_t number) {
    return job.product.panels + number * job.product.panel_bytes;
  }

  // A vector of outputs' weights of one channel, from output j of the panel on: of floats of any
  // kind, or of bytes.
  template <class T>
  class FloatTaps {
   public:
    FloatTaps(const std::byte* of_panel, int64_t channel, int64_t j)
        : row_(reinterpret_cast<const T*>(of_panel) + j +
               (channel / gemm::kStep * 9 * gemm::kStep + channel % gemm::kStep) * panel) {}
    F operator()(int64_t tap) const { return V::load(row_ + tap * kStride); }
    void prefetch_next_group() const {
      for (int64_t tap = 9; tap < 18; ++tap) __builtin_prefetch(row_ + tap * kStride);
    }

   private:
    static constexpr int64_t kStride = gemm::kStep * panel;
    const T* row_;
  };
  template <bool offsets>
  struct ByteTaps : gemm::ByteTaps<V, panel, offsets> {
    ByteTaps(const std::byte* of_panel, int64_t channel, int64_t j)
        : gemm::ByteTaps<V, panel, offsets>(of_panel, 9, channel, j) {}
  };

  // Along the first axis.
  template <class Taps>
  SDCORE_SIMD void move_weight_columns(Taps taps, F (&columns)[kPatch][3]) {
#pragma GCC unroll 3
    for (int64_t x = 0; x < 3; ++x) {
      F g[3], moved[kPatch];
#pragma GCC unroll 3
      for (int64_t y = 0; y < 3; ++y) g[y] = taps(y * 3 + x);
      Axis<V>::move_weight(g, moved);
#pragma GCC unroll 6
      for (int64_t y = 0; y < kPatch; ++y) columns[y][x] = moved[y];
    }
  }

  // Along both; `put` takes a point and its vector.
  template <class Taps, class Put>
  SDCORE_SIMD void move_weight(Taps taps, Put put) {
    F columns[kPatch][3];
    move_weight_columns(taps, columns);
#pragma GCC unroll 6
    for (int64_t y = 0; y < kPatch; ++y) {
      F moved[kPatch];
      Axis<V>::move_weight(columns[y], moved);
#pragma GCC unroll 6
      for (int64_t x = 0; x < kPatch; ++x) put(y * kPatch + x, moved[x]);
    }
  }

  // A tile's sums at the points, `stride` apart, to [pixel][output]; each output times its scale.
  template <class Scale>
  static void move_back(const float* sums, int64_t stride, float* outputs, Scale scale) {
    for (int64_t j = 0; j < panel; j += V::width) {
      F columns[kTile][kPatch];
#pragma GCC unroll 6
      for (int64_t x = 0; x < kPatch; ++x) {
        F s[kPatch], moved[kTile];
#pragma GCC unroll 6
        for (int64_t y = 0; y < kPatch; ++y) s[y] = V::load(sums + (y * kPatch + x) * stride + j);
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
          V::store(outputs + (y * kTile + x) * panel + j, scale(moved[x], j));
        }
      }
    }
  }

  // Stores a tile's outputs, [pixel][output], of the panel that begins at `column`.
  static void store(const Job& job, int64_t tile, const float* outputs, int64_t column,
                    gemm::Pending<V, panel>& pending) {
    const Place at = place(job, tile);
    const View &out = job.product.out, &residual = job.product.epilogue.residual;
    const auto first = [&](const View& v) {
      return at.n * v.stride_n + at.y * v.stride_h + at.x * v.stride_w;
    };
    const int64_t to = first(out), from = first(residual);
    const int64_t image_bias = at.n * job.product.epilogue.image_bias.stride_n;
    gemm::Row rows[pixels];
#pragma GCC unroll 16
    for (int64_t i = 0; i < pixels; ++i) {
      const int64_t y = i / kTile, x = i % kTile;
      const bool inside = at.y + y < out.h && at.x + x < out.w;
      rows[i] = {inside ? to + y * out.stride_h + x * out.stride_w : -1,
                 from + y * residual.stride_h + x * residual.stride_w, image_bias};
    }
    const int64_t left = job.product.outputs - column;
    pending.begin(rows, outputs, pixels, column, left < panel ? left : panel);
    pending.some(pixels);
  }
};

template <class Numbers>
struct Winograd {
  using V = typename Numbers::V;
  using Element = typename Numbers::Element;
  using Move = Moves<V, Numbers::panel>;
  static constexpr int64_t panel = Numbers::panel;
  static constexpr int64_t weight_stride = kBlock * panel + kApart / int64_t{sizeof(Element)};
  static constexpr int64_t sums_stride = Numbers::group * panel + kApart / int64_t{sizeof(float)};

  // What a thread holds: [point][channel][output], [point][tile][output] and [pixel][output].
  struct State {
    static constexpr size_t bytes =
        kPoints * (weight_stride * sizeof(Element) + sums_stride * sizeof(float)) +
        Move::pixels * panel * sizeof(float);
    Element* weights;
    float *sums, *outputs;

    explicit State(std::byte* scratch)
        : weights(reinterpret_cast<Element*>(scratch)),
          sums(reinterpret_cast<float*>(weights + kPoints * weight_stride)),
          outputs(sums + kPoints * sums_stride) {}
  };

  static void multiply(const Job& job, int64_t number, int64_t group, std::byte* scratch) {
    const State state(scratch);
    const int64_t begin = job.count * group / job.groups;
    const int64_t tiles = job.count * (group + 1) / job.groups - begin;
    const int64_t runs = (tiles + Numbers::rows - 1) / Numbers::rows;
    gemm::Pending<V, Numbers::panel> pending(job.product);
    for (int64_t block = 0; block < job.blocks(); ++block) {
      const int64_t left = job.channels - block * kBlock, count = left < kBlock ? left : kBlock;
      Numbers::move_weights(job, number, block * kBlock, count, state.weights, weight_stride);
      for (int64_t point = 0; point < kPoints; ++point) {
        for (int64_t run = 0; run < runs; ++run) {
          const int64_t first = tiles * run / runs;
          const Product product{.block = block,
                                .point = point,
                                .channels = count,
                                .tile = begin + first,
                                .tiles = static_cast<int>(tiles * (run + 1) / runs - first)};
          Numbers::multiply(job, product, state.weights + point * weight_stride,
                            state.sums + point * sums_stride + first * panel, pending);
        }
      }
    }
    const auto scale = Numbers::scale(job, number);
    for (int64_t t = 0; t < tiles; ++t) {
      Move::move_back(state.sums + t * panel, sums_stride, state.outputs, scale);
      Move::store(job, begin + t, state.outputs, number * panel, pending);
    }
  }

  static constexpr Kernel kernel(Isa isa) {
    return {.isa = isa,
            .integers = Numbers::integers,
            .panel = Numbers::panel,
            .group = Numbers::group,
            .element_bytes = sizeof(Element),
            .scratch_bytes = State::bytes,
            .measure = Numbers::measure,
            .move_patch = Numbers::move_patch,
            .multiply = multiply};
  }
};

}  // namespace sdcore::winograd
