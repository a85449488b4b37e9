// Winograd's convolution with float32 at the points, multiplied by any tile kernel of float32.
#pragma once

#include "kernels/conv2d/winograd_kernel.h"
#include "kernels/gemm/vector_tile.h"

namespace sdcore::winograd {

template <class Tile>
struct Floats {
  using V = typename Tile::V;
  using F = typename V::F;
  using Element = float;
  using Move = Moves<V, Tile::panel>;
  static constexpr int rows = Tile::rows, panel = Tile::panel;
  static constexpr int64_t group = 48;
  static constexpr bool integers = false;
  static constexpr auto measure = nullptr;

  template <class T>
  static void move_patch_as(const Job& job, int64_t tile) {
    for (int64_t block = 0; block < job.blocks(); ++block) {
      const int64_t begin = block * kBlock;
      const T* from[kPoints];
      Move::find_patch(job, tile, begin, from);
      const int64_t left = job.channels - begin, count = left < kBlock ? left : kBlock;
      float* to = job.patches_at<float>(block, 0, tile);
      int64_t c = 0;
      const auto put = [&](int64_t point, F x) { V::store(to + point * job.point_stride + c, x); };
      for (; c + V::width <= count; c += V::width) {
        Move::move_patch(from, c, [](const T* p) { return V::load(p); }, put);
      }
      if (c < count) {
        Move::move_patch(from, c, [n = count - c](const T* p) { return V::load_n(p, n); }, put);
      }
    }
  }

  static void move_patch(const Job& job, int64_t tile) {
    if (job.in.dtype == DType::bf16) return move_patch_as<bf16>(job, tile);
    move_patch_as<float>(job, tile);
  }

  // [point][channel][output]
  template <class Taps>
  static void move_weights_as(const Job& job, int64_t number, int64_t begin, int64_t count,
                              float* to, int64_t stride) {
    for (int64_t c = begin; c < begin + count; ++c) {
      float* out = to + (c - begin) * panel;
      for (int64_t j = 0; j < panel; j += V::width) {
        Move::move_weight(Taps(Move::panel_of(job, number), c, j),
                          [&](int64_t point, F x) { V::store(out + point * stride + j, x); });
      }
    }
  }

  static void move_weights(const Job& job, int64_t number, int64_t begin, int64_t count, float* to,
                           int64_t stride) {
    const auto as = [&]<class Taps>() {
      move_weights_as<Taps>(job, number, begin, count, to, stride);
    };
    switch (job.product.stored) {
      case gemm::kBytes:
        return job.product.offsets
                   ? as.template operator()<typename Move::template ByteTaps<true>>()
                   : as.template operator()<typename Move::template ByteTaps<false>>();
      case Type::f16:
        return as.template operator()<typename Move::template FloatTaps<f16>>();
      case Type::bf16:
        return as.template operator()<typename Move::template FloatTaps<bf16>>();
      default:
        return as.template operator()<typename Move::template FloatTaps<float>>();
    }
  }

  static void multiply(const Job& job, const Product& product, const float* weights, float* sums,
                       gemm::Pending<V, panel>& pending) {
    constexpr int64_t size = sizeof(float);
    gemm::Step steps[kBlock / gemm::kStep];
    int64_t count = 0;
    for (int64_t c = 0; c < product.channels; c += gemm::kStep, ++count) {
      const int64_t left = product.channels - c;
      steps[count] = {c * size, static_cast<int32_t>(left < gemm::kStep ? left : gemm::kStep), 1};
    }
    const float* patches = job.patches_at<float>(product.block, product.point, product.tile);
    const gemm::Tile tile{reinterpret_cast<const char*>(patches), product.tiles};
    Tile(rows).multiply(&tile, 1, &tile, kBlock * size, steps, count,
                        reinterpret_cast<const char*>(weights), {}, panel, sums, product.block > 0,
                        pending);
  }

  static auto scale(const Job&, int64_t) {
    return [](F x, int64_t) { return x; };
  }
};

}  // namespace sdcore::winograd
