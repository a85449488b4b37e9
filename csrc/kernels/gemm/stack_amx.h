// 3x3 taps on a stack of four tiles, each a line of pixels below the one before: a tile of input
// pixels is loaded once for all of the up to three output lines that it is a tap of, and a tile of
// weights once for four lines. 12 products so need 9 loads in place of 12.
#pragma once

#include "kernels/gemm/engine.h"
#include "kernels/gemm/epilogue.h"
#include "simd/amx.h"

namespace sdcore::gemm {
namespace {

// Pixels of the input that are read soon: six lines of 18, one cache line of channels of each.
class NearPixels {
 public:
  NearPixels(int64_t row_bytes, int64_t line_bytes)
      : row_bytes_(row_bytes), line_bytes_(line_bytes) {}

  // The first of them; null: they are near already.
  void begin(const char* first) {
    at_ = line_ = first;
    lines_ = first ? kLines : 0;
    pixels_ = kPixels;
  }

  // A third of a line.
  [[gnu::always_inline]] void some() {
    if (lines_ == 0) return;
    for (int i = 0; i < kPixels / 3; ++i, at_ += row_bytes_) _mm_prefetch(at_, _MM_HINT_T0);
    pixels_ -= kPixels / 3;
    if (pixels_ > 0) return;
    pixels_ = kPixels;
    --lines_;
    at_ = line_ += line_bytes_;
  }

 private:
  static constexpr int kLines = 6, kPixels = 18;
  const int64_t row_bytes_, line_bytes_;
  const char *at_ = nullptr, *line_ = nullptr;
  int lines_ = 0, pixels_ = 0;
};

// A panel of 32 outputs, as its halves one after the other. Registers 0..3 hold the sums of a line
// each, 4 a tile of the input, 5..7 the weights of one column of taps.
template <class V>
class StackOfTiles {
 public:
  static constexpr int lines = 4, rows = 16, panel = 32;

  StackOfTiles(const Tile* tiles, const Tile* next, int64_t row_bytes, const Step* steps,
               int64_t step_count, const char* weights)
      : a_(tiles[0].a),
        next_(next->a),
        row_bytes_(row_bytes),
        line_bytes_(steps[3].offset - steps[0].offset),
        steps_(steps),
        groups_(step_count / 9),
        weights_(weights),
        near_(row_bytes, line_bytes_) {}

  void multiply(Ahead ahead, int64_t columns, float* sums, bool accumulate,
                Pending<V, panel>& pending) {
    const int64_t halves = columns > 16 ? 2 : 1, taps = 3 * groups_;
    const int64_t share = (ahead.bytes / 64 + taps * halves - 1) / (taps * halves);
    // The first half is where sums may be overwritten, so all of them are stored within it.
    const int64_t stores = (pending.left() + taps - 1) / taps;
    simd::fence(weights_);
    for (int64_t half = 0; half < halves; ++half, sums += 16) {
      begin(sums, accumulate);
      Column last = column(0, half);
      first(last);
      for (int64_t i = 1; i < taps; ++i) {
        if (i % 3 == 1) near_.begin(near_pixels(i / 3, half, halves));
        const Column now = column(i, half);
        both(last, now);
        last = now;
        pending.some(stores);
        for (int64_t j = 0; j < share; ++j, ahead.begin += 64) {
          _mm_prefetch(ahead.begin, _MM_HINT_T1);
        }
      }
      rest(last);
      pending.some(half == 0 ? pending.left() : 0);
      end(sums);
    }
    simd::fence(sums);
  }

 private:
  // Three taps below each other: of six lines of pixels, and their weights.
  struct Column {
    const char *a, *weights;
  };

  Column column(int64_t i, int64_t half) const {
    const int64_t step = i / 3 * 9 + i % 3;
    return {a_ + steps_[step].offset, weights_ + step * kStepBytes + half * kStepBytes / 2};
  }

  // What is read after group `i` of channels, unless it has been read for the other half.
  const char* near_pixels(int64_t i, int64_t half, int64_t halves) const {
    if (i + 1 < groups_) return half == 0 ? a_ + steps_[(i + 1) * 9].offset : nullptr;
    return half + 1 == halves ? next_ + steps_[0].offset : nullptr;
  }

  static void begin(const float* sums, bool accumulate) {
    if (accumulate) {
      _tile_loadd(0, sums, panel * 4);
      _tile_loadd(1, sums + rows * panel, panel * 4);
      _tile_loadd(2, sums + 2 * rows * panel, panel * 4);
      _tile_loadd(3, sums + 3 * rows * panel, panel * 4);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
  }

  static void end(float* sums) {
    _tile_stored(0, sums, panel * 4);
    _tile_stored(1, sums + rows * panel, panel * 4);
    _tile_stored(2, sums + 2 * rows * panel, panel * 4);
    _tile_stored(3, sums + 3 * rows * panel, panel * 4);
  }

  // Lines 0..2 of a column.
  [[gnu::always_inline]] void first(const Column& c) const {
    _tile_loadd(5, c.weights, 64);
    _tile_loadd(6, c.weights + kTapLine, 64);
    _tile_loadd(7, c.weights + 2 * kTapLine, 64);
    _tile_loadd(4, c.a, row_bytes_);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(4, c.a + line_bytes_, row_bytes_);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(4, c.a + 2 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(0, 4, 7);
  }

  // Lines 3..5 of a column.
  [[gnu::always_inline]] void rest(const Column& c) const {
    _tile_loadd(4, c.a + 3 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(3, 4, 5);
    _tile_dpbf16ps(2, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(4, c.a + 4 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(3, 4, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(4, c.a + 5 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(3, 4, 7);
  }

  // rest(last) and first(now) in turns, so that no product waits for the one before: each line's
  // come every fourth time.
  [[gnu::always_inline]] void both(const Column& last, const Column& now) {
    _tile_loadd(4, last.a + 3 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(3, 4, 5);
    simd::space_products();
    _tile_dpbf16ps(2, 4, 6);
    simd::space_products();
    _tile_dpbf16ps(1, 4, 7);
    simd::space_products();
    near_.some();
    _tile_loadd(5, now.weights, 64);
    _tile_loadd(4, now.a, row_bytes_);
    _tile_dpbf16ps(0, 4, 5);
    simd::space_products();
    near_.some();
    _tile_loadd(4, last.a + 4 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(3, 4, 6);
    simd::space_products();
    _tile_dpbf16ps(2, 4, 7);
    simd::space_products();
    near_.some();
    _tile_loadd(6, now.weights + kTapLine, 64);
    _tile_loadd(4, now.a + line_bytes_, row_bytes_);
    _tile_dpbf16ps(1, 4, 5);
    simd::space_products();
    _tile_dpbf16ps(0, 4, 6);
    simd::space_products();
    near_.some();
    _tile_loadd(4, last.a + 5 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(3, 4, 7);
    simd::space_products();
    near_.some();
    _tile_loadd(7, now.weights + 2 * kTapLine, 64);
    _tile_loadd(4, now.a + 2 * line_bytes_, row_bytes_);
    _tile_dpbf16ps(2, 4, 5);
    simd::space_products();
    _tile_dpbf16ps(1, 4, 6);
    simd::space_products();
    _tile_dpbf16ps(0, 4, 7);
    simd::space_products();
    near_.some();
  }

  static constexpr int64_t kStepBytes = 2048, kTapLine = 3 * kStepBytes;

  const char *a_, *next_;
  const int64_t row_bytes_, line_bytes_;
  const Step* steps_;
  const int64_t groups_;
  const char* weights_;
  NearPixels near_;
};

}  // namespace
}  // namespace sdcore::gemm
