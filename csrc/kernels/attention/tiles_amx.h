// What the parts of AMX's attention share: sizes, the memory that they work in, and products of
// tiles. Included only from the file of that instruction set.
#pragma once

#include <algorithm>

#include "kernels/attention/bias.h"
#include "kernels/attention/kernel.h"
#include "simd/amx.h"

namespace sdcore::attention_kernels {
namespace {

// A class of this level's own: two must not share a function made from it.
struct V : simd::Avx512 {};
using F = V::F;

constexpr int64_t kLanes = 16;  // rows of a tile
constexpr int64_t kPair = 32;   // bf16 in a row of a tile; queries of a pass; keys of a group
constexpr int64_t kTileElements = 512;  // bf16
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileFloats = 256;
constexpr int64_t kPasses = 4;  // passes of a block: reuse of keys and values while in cache
constexpr int64_t kKeys = 256;  // of a step, whose weights are multiplied with values at once
constexpr int64_t kAhead = 1;   // groups scored before they are needed

constexpr int64_t kScores = kPair * kPair;  // of a group of 32 keys and 32 queries

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Sizes that follow from the arguments.
struct Sizes {
  int64_t d, keys;        // keys rounded up to 32
  int64_t steps;          // of 32 channels: the depth of q kᵀ
  int64_t bands;          // of 16 channels, and the ones: the width of v
  int64_t head_elements;  // packed keys and values of a head, and the largest of groups

  explicit Sizes(const AttentionArgs& args)
      : d(args.q.c / args.heads),
        keys(round_up(args.k.w, kPair)),
        steps((d + 31) / 32),
        bands(d / 16 + 1),
        head_elements(keys * (steps * 32 + bands * 16) + round_up(keys / kPair, kPair)) {}
};

using TileBias = Bias<V>;

// Packed tiles of one head.
struct Packed {
  bf16 *key, *value;  // [keys/32][steps][2][tile], [keys/32][bands][tile]
  uint16_t* largest;  // [keys/32]: bits of the largest number in keys

  Packed(const AttentionArgs& args, const Sizes& s, int64_t image, int64_t head)
      : key(static_cast<bf16*>(args.workspace) + (image * args.heads + head) * s.head_elements),
        value(key + s.keys * s.steps * 32),
        largest(reinterpret_cast<uint16_t*>(value + s.keys * s.bands * 16)) {}
  bf16* key_tiles(const Sizes& s, int64_t first) const { return key + first * s.steps * 32; }
  bf16* value_tiles(const Sizes& s, int64_t first) const { return value + first * s.bands * 16; }
};

// A thread's state: a block's queries and outputs, some groups' scores, and a step's weights.
struct State {
  bf16* q;        // [passes][2][steps][tile]
  float* out;     // [passes][2][bands][16 queries][16 channels]
  float* shift;   // [passes][32]: what is added to scores that become exponents
  float* scores;  // [ahead + 1][32 queries][32 keys]
  bf16* weights;  // [keys / 32][2][tile]
  float* bias;
  size_t bytes;

  State(const AttentionArgs& args, const Sizes& s, std::byte* scratch) {
    std::byte* next = scratch;
    const auto take = [&](int64_t count) {
      std::byte* at = next;
      next += count;
      return at;
    };
    q = reinterpret_cast<bf16*>(take(kPasses * 2 * s.steps * kTileBytes));
    out = reinterpret_cast<float*>(take(kPasses * 2 * s.bands * kTileBytes));
    scores = reinterpret_cast<float*>(take((kAhead + 1) * kScores * 4));
    weights = reinterpret_cast<bf16*>(take(2 * kKeys * kLanes * 2));
    shift = reinterpret_cast<float*>(take(kPasses * kPair * 4));
    bias = reinterpret_cast<float*>(take(TileBias::floats(args, kPasses * kPair) * 4));
    bytes = static_cast<size_t>(next - scratch);
  }
};

// --- tiles ---

// c[i][j] += a[i] b[j] over `depth` tiles for i < 2 and j < columns: tiles 0-3 are sums, 4-5 come
// from a, 6-7 from b. `between` is called after each product, which takes 16 cycles.
template <int columns, class Between>
SDCORE_SIMD void multiply(const bf16* const (&a)[2], int64_t a_step, const bf16* const (&b)[2],
                          int64_t b_step, int64_t depth, Between&& between) {
  for (int64_t k = 0; k < depth; ++k) {
    _tile_loadd(4, a[0] + k * a_step, 64);
    _tile_loadd(6, b[0] + k * b_step, 64);
    _tile_loadd(5, a[1] + k * a_step, 64);
    if constexpr (columns == 2) _tile_loadd(7, b[1] + k * b_step, 64);
    _tile_dpbf16ps(0, 4, 6);
    between();
    _tile_dpbf16ps(2, 5, 6);
    between();
    if constexpr (columns == 2) {
      _tile_dpbf16ps(1, 4, 7);
      between();
      _tile_dpbf16ps(3, 5, 7);
      between();
    }
  }
}

// scores[32][32] = queries · keys, of a group of 32 keys.
template <class Between>
SDCORE_SIMD void score(const Sizes& s, const bf16* q, const bf16* key, float* scores,
                       Between&& between) {
  constexpr int64_t kRow = kPair * 4, kHalf = kLanes * kPair;
  simd::fence(q);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  multiply<2>({q, q + s.steps * kTileElements}, kTileElements, {key, key + kTileElements},
              2 * kTileElements, s.steps, between);
  _tile_stored(0, scores, kRow);
  _tile_stored(1, scores + kLanes, kRow);
  _tile_stored(2, scores + kHalf, kRow);
  _tile_stored(3, scores + kHalf + kLanes, kRow);
  simd::fence(scores);
}

// The same for heads of two steps of channels, whose queries `hold` has put into tiles 4-7.
void hold(const bf16* q) {
  simd::fence(q);
  _tile_loadd(4, q, 64);
  _tile_loadd(5, q + kTileElements, 64);
  _tile_loadd(6, q + 2 * kTileElements, 64);
  _tile_loadd(7, q + 3 * kTileElements, 64);
}
template <class Between>
SDCORE_SIMD void score_held(const bf16* key, float* scores, Between&& between) {
  constexpr int64_t kRow = kPair * 4, kHalf = kLanes * kPair;
#pragma GCC unroll 2
  for (int64_t half = 0; half < 2; ++half, key += kTileElements, scores += kLanes) {
    _tile_loadd(2, key, 64);
    _tile_loadd(3, key + 2 * kTileElements, 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_dpbf16ps(0, 4, 2);
    between();
    _tile_dpbf16ps(1, 6, 2);
    between();
    _tile_dpbf16ps(0, 5, 3);
    between();
    _tile_dpbf16ps(1, 7, 3);
    between();
    _tile_stored(0, scores, kRow);
    _tile_stored(1, scores + kHalf, kRow);
  }
  simd::fence(scores);
}

// out[2][bands] += weights · values, over `groups` of 32 keys, for one or two bands.
template <int columns>
void accumulate(const Sizes& s, const bf16* weights, const bf16* value, int64_t groups, float* out,
                int64_t band) {
  float* low = out + band * kTileFloats;
  float* high = low + s.bands * kTileFloats;
  const bf16* v = value + band * kTileElements;
  _tile_loadd(0, low, 64);
  _tile_loadd(2, high, 64);
  if constexpr (columns == 2) {
    _tile_loadd(1, low + kTileFloats, 64);
    _tile_loadd(3, high + kTileFloats, 64);
  }
  multiply<columns>({weights, weights + kTileElements}, 2 * kTileElements, {v, v + kTileElements},
                    s.bands * kTileElements, groups, simd::space_products);
  _tile_stored(0, low, 64);
  _tile_stored(2, high, 64);
  if constexpr (columns == 2) {
    _tile_stored(1, low + kTileFloats, 64);
    _tile_stored(3, high + kTileFloats, 64);
  }
}

void weigh(const Sizes& s, const bf16* weights, const bf16* value, int64_t groups, float* out) {
  simd::fence(weights);
  int64_t band = 0;
  for (; band + 2 <= s.bands; band += 2) accumulate<2>(s, weights, value, groups, out, band);
  if (band < s.bands) accumulate<1>(s, weights, value, groups, out, band);
  simd::fence(out);
}

}  // namespace
}  // namespace sdcore::attention_kernels
