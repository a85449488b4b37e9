// Attention in bf16 on AMX tiles. Scores are [query][key] and outputs [query][channel]. Keys and
// values are packed once a head into tiles; a block of queries then streams over them. While tiles
// are multiplied, vectors turn the scores of the keys before them into weights: both units are
// busy. Values have a channel of ones, whose output is the sum of the weights.
#include <algorithm>
#include <array>

#include "kernels/attention/bias.h"
#include "kernels/attention/kernel.h"
#include "simd/amx.h"
#include "simd/math.h"

namespace sdcore::attention_kernels {
namespace {

// A class of this file's own: two levels must not share a function made from it.
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
constexpr int kRows = 2;        // queries whose weights are made between two products

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

// --- softmax ---

// Scores become exponents in fixed point, of 16 bits: x is of the weight 2^(x / 256 - 127), as in a
// bf16's upper bits but for 8 bits of fraction in place of 7. The top score of a query has a weight
// of about 2^-16: one from 2^127 above it on is the sign bit, and asks for a new top; one less than
// 2^-110 of it is 0. While products run only one port adds floats, but both add integers.
constexpr float kUnit = 256, kTop = 111 * kUnit, kFar = 128 * kUnit;
constexpr float kInteger = 0x1.8p23f;       // a float that so begins ends in an integer
constexpr float kMost = 0x1p22f;            // of exponents, in their units, without care
constexpr float kLeast = -1, kAll = 65535;  // of careful ones

// A bf16's fraction is 2^f - 1, and not f. By the first 6 bits of f, what makes one of the other,
// in 256ths, added to `kBend`, which exponents are less.
constexpr int kBend = 23;
constexpr auto kBends = [] {
  std::array<uint8_t, 64> bends{};
  for (int i = 0; i < 64; ++i) {
    const double f = (4 * i + 1.5 + kBend) / 256, g = f < 1 ? f : f - 1;
    bends[static_cast<size_t>(i)] =
        static_cast<uint8_t>(kBend + 0.5 - 256 * g * (1 - g) * (0.3069 + 0.0795 * g));
  }
  return bends;
}();

// The exponents of 32 scores, in the order that packing leaves them in, which is that of `key_at`.
SDCORE_SIMD __m512i exponents_of(F low, F high, __mmask32 places) {
  const auto integer = [](F x) __attribute__((always_inline)) {
    return _mm512_sub_epi32(_mm512_castps_si512(x), _mm512_castps_si512(V::set(kInteger)));
  };
  return _mm512_maskz_packus_epi32(places, integer(low), integer(high));
}
constexpr int64_t key_at(int64_t place) {
  return place / 8 * 4 + place % 4 + (place % 8 < 4 ? 0 : kLanes);
}
// The first `count` keys, and their places in that order.
uint32_t first_of(int64_t count) { return static_cast<uint32_t>((uint64_t{1} << count) - 1); }
__mmask32 places_of(int64_t count) {
  __mmask32 places = 0;
  for (int64_t place = 0; place < kPair; ++place) {
    if (key_at(place) < count) places |= 1u << place;
  }
  return places;
}

SDCORE_SIMD __m512i weights_of(__m512i exponents, __m512i bends) {
  const __m512i place = _mm512_srli_epi16(exponents, 2);
  const __m512i bend = _mm512_maskz_permutexvar_epi8(0x5555555555555555u, place, bends);
  return _mm512_avg_epu16(exponents, bend);  // which halves and rounds
}

// The weights of a group, some queries at a time. Careful ones bear scores of any size, infinite
// ones, and such as are not numbers.
template <bool careful>
class Exponentials {
 public:
  // `keys` of the group are there.
  [[gnu::always_inline]] Exponentials(const float* scores, const float* shift, F factor,
                                      int64_t keys, bf16* weights)
      : scores_(scores),
        shift_(shift),
        weights_(weights),
        factor_(factor),
        there_(first_of(keys)),
        places_(keys == kPair ? ~0u : places_of(keys)) {}

  // Of the next queries, if any are left.
  [[gnu::always_inline]] void operator()() {
    if (row_ == kPair) return;
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) row(row_ + i);
    row_ += kRows;
    simd::fence(weights_);
  }
  [[gnu::always_inline]] void finish() {
    while (row_ < kPair) (*this)();
  }

  // Once all are done: whether a score was far above the top.
  [[gnu::always_inline]] bool far() const { return _mm512_movepi16_mask(all_) != 0; }
  // The queries one of whose scores is not a number.
  [[gnu::always_inline]] uint32_t bad() const { return bad_; }

 private:
  [[gnu::always_inline]] void row(int64_t query) {
    const float* from = scores_ + query * kPair;
    const F shift = V::set(shift_[query]);
    F low = V::fma(V::load(from), factor_, shift);
    F high = V::fma(V::load(from + kLanes), factor_, shift);
    if constexpr (careful) {
      const unsigned not_numbers = _mm512_cmp_ps_mask(low, low, _CMP_UNORD_Q) |
                                   _mm512_cmp_ps_mask(high, high, _CMP_UNORD_Q) << kLanes;
      if (not_numbers & there_) bad_ |= 1u << query;
      low = V::max(V::set(kInteger + kLeast), V::min(V::set(kInteger + kAll), low));
      high = V::max(V::set(kInteger + kLeast), V::min(V::set(kInteger + kAll), high));
    }
    const __m512i x = exponents_of(low, high, places_);
    all_ = _mm512_or_si512(all_, x);
    _mm512_store_si512(weights_ + query * kPair, weights_of(x, bends_));
  }

  const float *scores_, *shift_;
  bf16* weights_;
  F factor_;
  uint32_t there_;
  __mmask32 places_;
  uint32_t bad_ = 0;
  int64_t row_ = 0;
  __m512i all_ = _mm512_setzero_si512();  // bits of exponents
  __m512i bends_ = _mm512_loadu_si512(kBends.data());
};

// What is added to a query's scores under which one is the top.
float shift_of(float top) { return kInteger + (kTop - kBend) - top; }

// Of a query's scores with the first `keys`.
float highest(const float* scores, int64_t keys) {
  const F hidden = V::set(-HUGE_VALF);
  const auto half = [&](int64_t i) {
    const F x =
        _mm512_mask_loadu_ps(hidden, static_cast<__mmask16>(first_of(keys) >> i), scores + i);
    return V::max(x, hidden);  // which hides what is not a number
  };
  return V::max_lane(V::max(half(0), half(kLanes)));
}

// Makes a score the top of its query if it is far above it, and shrinks what was summed before.
void raise(const Sizes& s, float top, float* shift, float* out) {
  if (!(top + *shift >= kInteger + kFar)) return;
  const float raised = shift_of(top);
  // An infinite score makes the output NaN, as it does in the formula.
  const F shrink =
      V::add(simd::exp2_nonpositive<V>(V::set((raised - *shift) / kUnit)), V::set(top - top));
  *shift = raised;
  for (int64_t band = 0; band < s.bands; ++band) {
    V::store(out + band * kTileFloats, V::mul(V::load(out + band * kTileFloats), shrink));
  }
}

// --- packing ---

// The first n of 32 bf16, zeros for the others; n may be out of range either way.
__m512i load32(const bf16* p, int64_t n) {
  if (n >= 32) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16(n <= 0 ? 0u : (1u << n) - 1u, p);
}

__m512i load16(const bf16* p, int64_t n) {
  const unsigned mask = n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u;
  return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
}

const bf16* head_of(const View& v, int64_t image, int64_t head, int64_t d) {
  return static_cast<const bf16*>(v.data) + image * v.stride_n + head * d;
}

// The largest number of several bf16, without their signs; what is not a number is larger yet.
class Largest {
 public:
  void add(__m512i x) {
    bits_ = _mm512_max_epu16(bits_, _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)));
  }
  uint16_t bits() const {
    const __m512i low = _mm512_and_si512(bits_, _mm512_set1_epi32(0xffff));
    return static_cast<uint16_t>(
        _mm512_reduce_max_epu32(_mm512_max_epu32(low, _mm512_srli_epi32(bits_, 16))));
  }

 private:
  __m512i bits_ = _mm512_setzero_si512();
};

// 32 keys: for each 32 channels two tiles of channel pairs by keys.
void pack_keys(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to,
               Largest& largest) {
  for (int64_t tile = 0; tile < 2 * s.steps; ++tile, to += kTileElements) {
    const int64_t channel = tile / 2 * 32, key = tile % 2 * kLanes;
    __m512i rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      rows[r] = load32(from + (key + r) * stride + channel, key + r < count ? s.d - channel : 0);
      largest.add(rows[r]);
    }
    V::transpose(rows);
    for (int64_t r = 0; r < 16; ++r) _mm512_store_si512(to + r * 32, rows[r]);
  }
}

// 32 values: a tile of pairs of keys by channels for each 16 channels, and after the last channel
// ones. Keys are in the order of a row of weights.
void pack_values(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to) {
  const __m512i ones = _mm512_set1_epi32(0x3f803f80);  // two
  for (int64_t band = 0; band < s.bands; ++band, to += kTileElements) {
    const int64_t channels = s.d - band * 16;
    const auto value = [&](int64_t place) {
      const int64_t key = key_at(place);
      return load16(from + key * stride + band * 16, key < count ? channels : 0);
    };
    for (int64_t r = 0; r < 16; ++r) {
      __m512i row = _mm512_or_si512(value(2 * r), _mm512_slli_epi32(value(2 * r + 1), 16));
      if (channels < 16)
        row = _mm512_mask_mov_epi32(row, static_cast<__mmask16>(1u << channels), ones);
      _mm512_store_si512(to + r * 32, row);
    }
  }
}

// 16 queries: a tile for each 32 channels.
void pack_queries(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to,
                  Largest& largest) {
  for (int64_t step = 0; step < s.steps; ++step, to += kTileElements) {
    for (int64_t r = 0; r < 16; ++r) {
      const __m512i x = load32(from + r * stride + step * 32, r < count ? s.d - step * 32 : 0);
      largest.add(x);
      _mm512_store_si512(to + r * 32, x);
    }
  }
}

// A query's outputs over the sum that comes after them.
void unpack(const float* from, int64_t d, bf16* to) {
  const F inverse = V::set(1.0f / from[d / 16 * kTileFloats + d % 16]);
  for (int64_t channel = 0; channel < d; channel += 16) {
    const F x = V::load(from + channel / 16 * kTileFloats);
    V::store_n(to + channel, V::mul(x, inverse), std::min<int64_t>(16, d - channel));
  }
}

// --- the row of the registry ---

size_t workspace_bytes(const AttentionArgs& args) {
  return static_cast<size_t>(args.q.n * args.heads * Sizes(args).head_elements) * sizeof(bf16);
}

size_t scratch_bytes(const AttentionArgs& args) { return State(args, Sizes(args), nullptr).bytes; }

int64_t pack_tasks(const AttentionArgs& args) {
  return args.q.n * args.heads * (Sizes(args).keys / kPair);
}

void pack(const AttentionArgs& args, int64_t task) {
  const Sizes s(args);
  const int64_t groups = s.keys / kPair, sequence = task / groups, first = task % groups * kPair;
  const int64_t image = sequence / args.heads, head = sequence % args.heads;
  const Packed packed(args, s, image, head);
  const int64_t ks = args.k.stride_w, vs = args.v.stride_w, count = args.k.w - first;
  Largest largest;
  pack_keys(head_of(args.k, image, head, s.d) + first * ks, ks, count, s,
            packed.key_tiles(s, first), largest);
  packed.largest[first / kPair] = largest.bits();
  pack_values(head_of(args.v, image, head, s.d) + first * vs, vs, count, s,
              packed.value_tiles(s, first));
}

// The state of a block before any key. Returns the largest number in its queries.
float begin(const AttentionArgs& args, const Block& block, const Sizes& s, const State& state) {
  const int64_t stride = args.q.stride_w, count = block.end - block.begin;
  const bf16* q = head_of(args.q, block.image, block.head, s.d) + block.begin * stride;
  const int64_t padded = round_up(count, kPair);
  Largest largest;
  for (int64_t i = 0; i < padded; i += kLanes) {
    pack_queries(q + i * stride, stride, count - i, s, state.q + i * s.steps * 32, largest);
  }
  std::fill_n(state.out, padded * s.bands * 16, 0.0f);
  return to_float(bf16{largest.bits()});
}

// What is the same for all keys: of a pass of 32 queries, which `step` takes to its next keys.
template <bool careful>
class Pass {
 public:
  Pass(const AttentionArgs& args, const Block& block, const Sizes& sizes, const State& state,
       const Packed& packed, const TileBias& bias, int64_t pass)
      : args_(args),
        s_(sizes),
        state_(state),
        packed_(packed),
        bias_(bias),
        first_query_(block.begin + pass * kPair),
        query_(pass * kPair),
        scale_(args.scale * 1.44269504088896341f * kUnit) {}

  void step(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    weighed_ = 0;
    held_ = false;
    const int64_t groups = (count + kPair - 1) / kPair;
    for (int64_t group = 0; group < std::min(kAhead, groups); ++group) {
      score(group, simd::space_products);
    }
    for (int64_t group = 0; group < groups; ++group) softmax(group, group + kAhead < groups);
    weigh(groups);
  }

 private:
  float* scores(int64_t group) const { return state_.scores + group % (kAhead + 1) * kScores; }
  float* shift() const { return state_.shift + query_; }
  float* out(int64_t query) const {
    const int64_t half = query / kLanes;
    return state_.out + (query_ + half * kLanes) * s_.bands * kLanes + query % kLanes * kLanes;
  }

  template <class Between>
  [[gnu::always_inline]] void score(int64_t group, Between&& between) {
    const bf16 *q = state_.q + query_ * s_.steps * 32,
               *key = packed_.key_tiles(s_, first_ + group * kPair);
    if (s_.steps != 2) return attention_kernels::score(s_, q, key, scores(group), between);
    if (!held_) hold(q);
    held_ = true;
    score_held(key, scores(group), between);
  }

  // The groups up to this one that have not been multiplied with their values.
  void weigh(int64_t group) {
    if (group > weighed_) {
      attention_kernels::weigh(s_, state_.weights + weighed_ * 2 * kTileElements,
                               packed_.value_tiles(s_, first_ + weighed_ * kPair), group - weighed_,
                               out(0));
    }
    weighed_ = group;
    held_ = false;
  }

  // A group's scores to weights, while a later one is scored, if there is one.
  void softmax(int64_t group, bool later) {
    const int64_t key = first_ + group * kPair, present = std::min(kPair, count_ - group * kPair);
    float* from = scores(group);
    if (bias_.any()) bias_.add_rows(from, key, present, query_);
    if (args_.causal) hide(from, key);
    if (key == 0) begin(from);
    bf16* to = state_.weights + group * 2 * kTileElements;
    Exponentials<careful> exponentials(from, shift(), V::set(scale_), present, to);
    if (later) score(group + kAhead, exponentials);
    exponentials.finish();
    if (exponentials.far()) {
      weigh(group);
      for (int64_t i = 0; i < kPair; ++i) {
        raise(s_, highest(from + i * kPair, present) * scale_, shift() + i, out(i));
      }
      Exponentials<careful>(from, shift(), V::set(scale_), present, to).finish();
    }
    if constexpr (careful) spoil(exponentials.bad());
  }

  // The first key's scores become the tops: some score of every query must be near it or above.
  void begin(const float* from) {
    for (int64_t i = 0; i < kPair; ++i) {
      // Finite, so that inf - inf does not come up, whatever the first score.
      shift()[i] = shift_of(std::max(-1e30f, std::min(from[i * kPair] * scale_, 1e30f)));
    }
  }

  // Keys that come after their query become -inf.
  void hide(float* from, int64_t key) const {
    for (int64_t i = 0; i < kPair; ++i) {
      for (int64_t j = std::max<int64_t>(0, first_query_ + i + 1 - key); j < kPair; ++j) {
        from[i * kPair + j] = -HUGE_VALF;
      }
    }
  }

  // Outputs of queries with a score that is not a number: their sums are none either.
  void spoil(uint32_t queries) const {
    for (int64_t i = 0; queries != 0; ++i, queries >>= 1) {
      if (queries & 1) out(i)[s_.d / 16 * kTileFloats + s_.d % 16] = NAN;
    }
  }

  const AttentionArgs& args_;
  const Sizes& s_;
  const State& state_;
  const Packed& packed_;
  const TileBias& bias_;
  int64_t first_query_, query_;    // the pass's first, of all and of the block
  int64_t first_ = 0, count_ = 0;  // keys of the step
  bool held_ = false;              // whether queries are in tiles
  int64_t weighed_ = 0;            // groups of the step
  float scale_;
};

template <bool careful>
void stream(const AttentionArgs& args, const Block& block, const Sizes& s, const State& state,
            const Packed& packed) {
  const TileBias bias(args, block, kPasses * kPair, state.bias);
  const int64_t queries = block.end - block.begin, tk = args.k.w;
  const int64_t visible = args.causal ? std::min(block.end, tk) : tk;
  for (int64_t first = 0; first < visible; first += kKeys) {
    const int64_t count = std::min(kKeys, visible - first);
    for (int64_t pass = 0; pass * kPair < queries; ++pass) {
      if (args.causal && block.begin + (pass + 1) * kPair <= first) continue;
      Pass<careful>(args, block, s, state, packed, bias, pass).step(first, count);
    }
  }
}

// Whether scores may be so large that exponents do not bear them.
bool may_be_large(const AttentionArgs& args, const Sizes& s, const Packed& packed, float query) {
  if (args.relative.c || args.mask.c) return true;
  const uint16_t key = *std::max_element(packed.largest, packed.largest + s.keys / kPair);
  const float bound =
      query * to_float(bf16{key}) * static_cast<float>(s.d) * args.scale * 1.45f * kUnit;
  return !(bound < kMost);  // so for what is not a number
}

void attend(const AttentionArgs& args, const Block& block, std::byte* scratch) {
  const Sizes s(args);
  const State state(args, s, scratch);
  const Packed packed(args, s, block.image, block.head);
  static constexpr simd::TileConfig config;
  _tile_loadconfig(&config);
  const float largest = begin(args, block, s, state);
  const bool careful = may_be_large(args, s, packed, largest);
  (careful ? stream<true> : stream<false>)(args, block, s, state, packed);
  _tile_release();
  const int64_t stride = args.out.stride_w;
  bf16* to = const_cast<bf16*>(head_of(args.out, block.image, block.head, s.d));
  for (int64_t i = 0; i < block.end - block.begin; ++i) {
    const float* from = state.out + i / kLanes * s.bands * kTileFloats + i % kLanes * kLanes;
    unpack(from, s.d, to + (block.begin + i) * stride);
  }
}

}  // namespace

const Kernel kernel_amx = {Isa::amx,      false,      1,    kPasses* kPair, workspace_bytes,
                           scratch_bytes, pack_tasks, pack, attend};

}  // namespace sdcore::attention_kernels
