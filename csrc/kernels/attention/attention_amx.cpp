// Attention in bf16 on AMX tiles, transposed like the float32 one: scores are [key][query] and
// outputs [channel][query], so that softmax runs along lanes of queries. Keys (rows of channels)
// and values (transposed: rows of keys) are packed once a head into tiles; a block of queries then
// streams over them. Values have a channel of ones, whose output is the sum of the weights.
#include <algorithm>

#include "kernels/attention/bias.h"
#include "kernels/attention/kernel.h"
#include "simd/amx.h"
#include "simd/math.h"

namespace sdcore::attention_kernels {
namespace {

// A class of this file's own: two levels must not share a function made from it.
struct V : simd::Avx512 {};
using F = V::F;

constexpr int64_t kLanes = 16;          // rows of a tile, and queries of a vector
constexpr int64_t kPair = 32;           // bf16 in a row of a tile; also queries of a pass
constexpr int64_t kTileElements = 512;  // bf16
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kPasses = 4;  // passes of a block: reuse of keys and values while in cache
constexpr int64_t kKeys = 256;  // of a step, whose weights are multiplied with values at once

constexpr int64_t kHalfScores = kPair * kLanes;  // of a group of 32 keys and 16 queries

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Sizes that follow from the arguments.
struct Sizes {
  int64_t d, keys;        // keys rounded up to 32
  int64_t steps;          // of 32 channels: the depth of q kᵀ
  int64_t bands;          // of 16 channels, and the ones: the height of vᵀ
  int64_t head_elements;  // packed keys and values of a head, and flags of groups

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
  bf16 *key, *value;  // [keys/16][steps][tile], [keys/32][bands][tile]
  uint16_t* flags;    // [keys/32]: whether a key is not finite

  Packed(const AttentionArgs& args, const Sizes& s, int64_t image, int64_t head)
      : key(static_cast<bf16*>(args.workspace) + (image * args.heads + head) * s.head_elements),
        value(key + s.keys * s.steps * 32),
        flags(reinterpret_cast<uint16_t*>(value + s.keys * s.bands * 16)) {}
  const bf16* key_tile(const Sizes& s, int64_t first) const {
    return key + first / kLanes * s.steps * kTileElements;
  }
  const bf16* value_tile(const Sizes& s, int64_t first) const {
    return value + first / kPair * s.bands * kTileElements;
  }
};

// A thread's state: a block's queries and outputs, a group's scores, and a step's weights.
struct State {
  bf16* q;        // [passes][2][steps][tile]
  float* out;     // [passes][2][bands][16 channels][16 queries]
  float* top;     // [passes][32]: about the largest score so far, in units of an exponential
  float* scores;  // [2][32 keys][16]
  bf16* weights;  // [2][keys / 32][tile]
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
    scores = reinterpret_cast<float*>(take(2 * kHalfScores * 4));
    weights = reinterpret_cast<bf16*>(take(2 * kKeys * kLanes * 2));
    top = reinterpret_cast<float*>(take(kPasses * kPair * 4));
    bias = reinterpret_cast<float*>(take(TileBias::floats(args, kPasses * kPair) * 4));
    bytes = static_cast<size_t>(next - scratch);
  }
};

// --- tiles ---

// c[i][j] += a[i] b[j] over `depth` tiles for i < rows and j < 2: tiles 0-3 are sums, 4-5 come from
// a, 6-7 from b.
template <int rows>
void multiply(const bf16* const (&a)[2], int64_t a_step, const bf16* const (&b)[2], int64_t b_step,
              int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    _tile_loadd(6, b[0] + k * b_step, 64);
    _tile_loadd(7, b[1] + k * b_step, 64);
    _tile_loadd(4, a[0] + k * a_step, 64);
    if constexpr (rows == 2) _tile_loadd(5, a[1] + k * a_step, 64);
    _tile_dpbf16ps(0, 4, 6);
    simd::space_products();
    _tile_dpbf16ps(1, 4, 7);
    simd::space_products();
    if constexpr (rows == 2) {
      _tile_dpbf16ps(2, 5, 6);
      simd::space_products();
      _tile_dpbf16ps(3, 5, 7);
      simd::space_products();
    }
  }
}

// scores[2][32][16] = keys · queries, of a group of 32 keys.
void score(const Sizes& s, const bf16* key, const bf16* q, float* scores) {
  const bf16* const a[2] = {key, key + s.steps * kTileElements};
  const bf16* const b[2] = {q, q + s.steps * kTileElements};
  simd::fence(q);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  multiply<2>(a, kTileElements, b, kTileElements, s.steps);
  _tile_stored(0, scores, 64);
  _tile_stored(1, scores + kHalfScores, 64);
  _tile_stored(2, scores + kLanes * kLanes, 64);
  _tile_stored(3, scores + kHalfScores + kLanes * kLanes, 64);
  simd::fence(scores);
}

// out[2][bands] += values · weights, over `count` keys, a multiple of 32.
template <int rows>
void accumulate(const Sizes& s, const bf16* value, const bf16* weights, int64_t count, float* out,
                int64_t band) {
  constexpr int64_t kOut = kLanes * kLanes;
  const bf16* const a[2] = {value + band * kTileElements, value + (band + 1) * kTileElements};
  const bf16* const b[2] = {weights, weights + kKeys * kLanes};
  float* low = out + band * kOut;
  float* high = low + s.bands * kOut;
  _tile_loadd(0, low, 64);
  _tile_loadd(1, high, 64);
  if constexpr (rows == 2) {
    _tile_loadd(2, low + kOut, 64);
    _tile_loadd(3, high + kOut, 64);
  }
  multiply<rows>(a, s.bands * kTileElements, b, kTileElements, count / kPair);
  _tile_stored(0, low, 64);
  _tile_stored(1, high, 64);
  if constexpr (rows == 2) {
    _tile_stored(2, low + kOut, 64);
    _tile_stored(3, high + kOut, 64);
  }
}

void weigh(const Sizes& s, const bf16* value, const bf16* weights, int64_t count, float* out) {
  simd::fence(weights);
  int64_t band = 0;
  for (; band + 2 <= s.bands; band += 2) accumulate<2>(s, value, weights, count, out, band);
  if (band < s.bands) accumulate<1>(s, value, weights, count, out, band);
}

// --- softmax ---

// Lane i of key j becomes -inf where the key comes after the query.
void mask(float* scores, int64_t first_key, int64_t count, int64_t first_query) {
  const F hidden = V::set(-HUGE_VALF);
  for (int64_t j = std::max<int64_t>(0, first_query - first_key); j < count; ++j) {
    V::store_n(scores + j * kLanes, hidden, std::min(kLanes, first_key + j - first_query));
  }
}

// Exponents are fixed-point numbers of 16 bits: of the weight 2^(x / 1024), from 2^-32 on, below
// which it is 0, to 2^32. So only a score far above the top asks for a new one.
constexpr float kUnit = 1024, kFar = 16 * kUnit;

// Two vectors of exponents as weights in bf16, in the pairs that a tile multiplies: lane i holds
// those of even[i] and odd[i]. With fraction f, 2^f = 1 + f - f (1 - f) (0.3069 + 0.0795 f), which
// errs by 1e-4.
__m512i weights_of(F even, F odd) {
  const auto set = [](int x) { return _mm512_set1_epi16(static_cast<short>(x)); };
  const __m512i in_pairs =
      _mm512_broadcast_i32x4(_mm_set_epi8(15, 14, 7, 6, 13, 12, 5, 4, 11, 10, 3, 2, 9, 8, 1, 0));
  const __m512i x = _mm512_shuffle_epi8(
      _mm512_packs_epi32(_mm512_cvtps_epi32(even), _mm512_cvtps_epi32(odd)), in_pairs);
  const __m512i f = _mm512_slli_epi16(x, 6);
  const __m512i curve = _mm512_mulhi_epu16(f, _mm512_sub_epi16(set(-1), f));
  const __m512i factor = _mm512_add_epi16(_mm512_mulhi_epu16(f, set(81)), set(314));
  const __m512i bent =
      _mm512_sub_epi16(_mm512_add_epi16(x, set(4)), _mm512_mulhi_epu16(curve, factor));
  const __mmask32 seen = _mm512_cmpgt_epi16_mask(x, set(-32768));
  return _mm512_maskz_add_epi16(seen, _mm512_srai_epi16(bent, 3), set(127 << 7));
}

// The weights of a group's first `keys`, a multiple of 8, for 16 queries; returns their highest
// exponents. Lanes with an exponent that is not a number are added to `bad`, if asked for.
template <bool careful>
F exponentials(const float* scores, int64_t keys, F factor, F top, bf16* weights, __mmask16& bad) {
  const F shift = simd::negate<V>(top);
  F high[2] = {V::set(-HUGE_VALF), V::set(-HUGE_VALF)};
#pragma GCC unroll 4
  for (int64_t k = 0; k < keys; k += 2) {
    const F even = V::fma(V::load(scores + k * kLanes), factor, shift);
    const F odd = V::fma(V::load(scores + (k + 1) * kLanes), factor, shift);
    high[0] = V::max(high[0], even);
    high[1] = V::max(high[1], odd);
    if constexpr (careful) bad |= _mm512_cmp_ps_mask(even, odd, _CMP_UNORD_Q);
    _mm512_store_si512(weights + k * kLanes, weights_of(even, odd));
  }
  std::fill(weights + keys * kLanes, weights + kTileElements, bf16{0});
  return V::max(high[0], high[1]);
}

// Moves the top of the queries whose scores are far above it, and what was summed under it.
void raise(const float* scores, int64_t keys, F factor, float* top, float* out, int64_t channels) {
  F high = V::load(scores);
  for (int64_t k = 1; k < keys; ++k) high = V::max(high, V::load(scores + k * kLanes));
  high = V::mul(high, factor);
  const F old = V::load(top);
  const F raised = V::select_less(V::add(old, V::set(kFar)), high, high, old);
  V::store(top, raised);
  // An infinite score makes the output NaN, as it does in the formula.
  const F shrink = V::add(simd::exp2_nonpositive<V>(V::mul(V::sub(old, raised), V::set(1 / kUnit))),
                          V::sub(raised, raised));
  for (int64_t i = 0; i < channels; ++i) {
    V::store(out + i * kLanes, V::mul(V::load(out + i * kLanes), shrink));
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

// Whether one of 32 bf16 is infinite or not a number.
bool not_finite(__m512i x) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  return _mm512_cmpeq_epi16_mask(_mm512_and_si512(x, exponent), exponent) != 0;
}

// 32 keys: two tiles of 16 keys for each 32 channels. Says whether all are finite.
bool pack_keys(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to) {
  bool finite = true;
  for (int64_t r = 0; r < kPair; ++r) {
    bf16* row = to + r / kLanes * s.steps * kTileElements + r % kLanes * 32;
    for (int64_t step = 0; step < s.steps; ++step) {
      const __m512i x = load32(from + r * stride + step * 32, r < count ? s.d - step * 32 : 0);
      finite &= !not_finite(x);
      _mm512_store_si512(row + step * kTileElements, x);
    }
  }
  return finite;
}

// 32 values: a tile of 16 channels by 32 keys for each 16 channels, and after the last channel
// ones.
void pack_values(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to) {
  constexpr int kOnes = 0x3f803f80;  // two
  for (int64_t band = 0; band < s.bands; ++band) {
    __m512i rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      const auto key = [&](int64_t k) {
        return load16(from + k * stride + band * 16, k < count ? s.d - band * 16 : 0);
      };
      rows[r] = _mm512_or_si512(key(2 * r), _mm512_slli_epi32(key(2 * r + 1), 16));
    }
    V::transpose(rows);
    if (s.d / 16 == band) rows[s.d % 16] = _mm512_set1_epi32(kOnes);
    for (int64_t r = 0; r < 16; ++r) {
      _mm512_store_si512(to + band * kTileElements + r * 32, rows[r]);
    }
  }
}

// 16 queries: for each 32 channels a tile of channel pairs by queries. Says whether all are finite.
bool pack_queries(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to) {
  bool finite = true;
  for (int64_t step = 0; step < s.steps; ++step) {
    __m512i rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      rows[r] = load32(from + r * stride + step * 32, r < count ? s.d - step * 32 : 0);
      finite &= !not_finite(rows[r]);
    }
    V::transpose(rows);
    for (int64_t r = 0; r < 16; ++r) {
      _mm512_store_si512(to + step * kTileElements + r * 32, rows[r]);
    }
  }
  return finite;
}

// 16 queries of outputs over the sums that come after them.
void unpack(const float* from, int64_t count, int64_t d, bf16* to, int64_t stride) {
  const F inverse = V::div(V::set(1.0f), V::load(from + d * kLanes));
  for (int64_t channel = 0; channel < d; channel += 16) {
    __m512i rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      const F x = V::load(from + (channel + r) * kLanes);
      rows[r] = _mm512_castps_si512(V::mul(x, inverse));
    }
    V::transpose(rows);
    const int64_t channels = std::min<int64_t>(16, d - channel);
    for (int64_t query = 0; query < std::min(count, kLanes); ++query) {
      V::store_n(to + query * stride + channel, _mm512_castsi512_ps(rows[query]), channels);
    }
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
  const bool finite = pack_keys(head_of(args.k, image, head, s.d) + first * ks, ks, count, s,
                                packed.key + first * s.steps * 32);
  packed.flags[first / kPair] = !finite;
  pack_values(head_of(args.v, image, head, s.d) + first * vs, vs, count, s,
              packed.value + first * s.bands * 16);
}

// The state of a block before any key. Says whether all its queries are finite.
bool begin(const AttentionArgs& args, const Block& block, const Sizes& s, const State& state) {
  const int64_t stride = args.q.stride_w, count = block.end - block.begin;
  const bf16* q = head_of(args.q, block.image, block.head, s.d) + block.begin * stride;
  bool finite = true;
  for (int64_t i = 0; i < count; i += kLanes) {
    finite &= pack_queries(q + i * stride, stride, count - i, s, state.q + i * s.steps * 32);
  }
  const int64_t padded = round_up(count, kPair);
  for (int64_t i = round_up(count, kLanes); i < padded; i += kLanes) {
    std::fill_n(state.q + i * s.steps * 32, s.steps * kTileElements, bf16{0});
  }
  std::fill_n(state.out, padded * s.bands * 16, 0.0f);
  std::fill_n(state.top, padded, -1e30f);  // finite, so that top - top is never inf - inf
  return finite;
}

// One step: `count` keys from `first` for the 32 queries of a pass.
class Pass {
 public:
  Pass(const AttentionArgs& args, const Block& block, const Sizes& sizes, const State& state,
       const Packed& packed, const TileBias& bias, bool finite, int64_t pass)
      : args_(args),
        block_(block),
        s_(sizes),
        state_(state),
        packed_(packed),
        bias_(bias),
        finite_(finite),
        query_(pass * kPair),
        factor_(V::set(args.scale * 1.44269504088896341f * kUnit)) {}

  void step(int64_t first, int64_t count) {
    const int64_t groups = (count + kPair - 1) / kPair;
    weighed_ = 0;
    for (int64_t group = 0; group < groups; ++group) {
      score(first, group);
      for (int64_t half = 0; half < 2; ++half) softmax(first, count, group, half);
    }
    weigh(first, groups);
  }

 private:
  bf16* weights(int64_t group, int64_t half) const {
    return state_.weights + half * kKeys * kLanes + group * kTileElements;
  }
  float* out(int64_t half) const {
    return state_.out + (query_ + half * kLanes) * s_.bands * kLanes;
  }

  void score(int64_t first, int64_t group) {
    attention_kernels::score(s_, packed_.key_tile(s_, first + group * kPair),
                             state_.q + query_ * s_.steps * 32, state_.scores);
  }

  // The groups up to this one that have not been multiplied with their values.
  void weigh(int64_t first, int64_t group) {
    if (group > weighed_) {
      attention_kernels::weigh(s_, packed_.value_tile(s_, first + weighed_ * kPair),
                               weights(weighed_, 0), (group - weighed_) * kPair, out(0));
    }
    weighed_ = group;
  }

  // One tile of queries: scores to weights.
  void softmax(int64_t first, int64_t count, int64_t group, int64_t half) {
    const int64_t query = query_ + half * kLanes, key = first + group * kPair;
    const int64_t present = std::min(kPair, count - group * kPair);
    float* from = state_.scores + half * kHalfScores;
    bias_.add<kLanes>(from, key, present, query);
    if (args_.causal) mask(from, key, present, block_.begin + query);
    const int64_t keys = round_up(present, 8);
    std::fill(from + present * kLanes, from + keys * kLanes, -HUGE_VALF);
    const bool careful = !finite_ || packed_.flags[key / kPair];
    const auto run = careful ? exponentials<true> : exponentials<false>;
    float* top = state_.top + query;
    __mmask16 bad = 0;
    if (key == 0) raise(from, keys, factor_, top, out(half), s_.d + 1);
    const F high = run(from, keys, factor_, V::load(top), weights(group, half), bad);
    if (simd::any_less<V>(V::set(kFar), high)) {
      weigh(first, group);
      raise(from, keys, factor_, top, out(half), s_.d + 1);
      run(from, keys, factor_, V::load(top), weights(group, half), bad);
    }
    if (bad) _mm512_mask_storeu_ps(out(half) + s_.d * kLanes, bad, V::set(NAN));
  }

  const AttentionArgs& args_;
  const Block& block_;
  const Sizes& s_;
  const State& state_;
  const Packed& packed_;
  const TileBias& bias_;
  bool finite_;
  int64_t query_;        // the pass's first
  int64_t weighed_ = 0;  // groups of the step
  F factor_;
};

void attend(const AttentionArgs& args, const Block& block, std::byte* scratch) {
  const Sizes s(args);
  const State state(args, s, scratch);
  const TileBias bias(args, block, kPasses * kPair, state.bias);
  const Packed packed(args, s, block.image, block.head);
  const int64_t queries = block.end - block.begin, tk = args.k.w;
  static constexpr simd::TileConfig config;
  _tile_loadconfig(&config);
  const bool finite = begin(args, block, s, state);
  const int64_t visible = args.causal ? std::min(block.end, tk) : tk;
  for (int64_t first = 0; first < visible; first += kKeys) {
    const int64_t count = std::min(kKeys, visible - first);
    for (int64_t pass = 0; pass * kPair < queries; ++pass) {
      if (args.causal && block.begin + (pass + 1) * kPair <= first) continue;
      Pass(args, block, s, state, packed, bias, finite, pass).step(first, count);
    }
  }
  _tile_release();
  const int64_t stride = args.out.stride_w;
  bf16* out = const_cast<bf16*>(head_of(args.out, block.image, block.head, s.d));
  for (int64_t i = 0; i < queries; i += kLanes) {
    unpack(state.out + i * s.bands * 16, queries - i, s.d, out + (block.begin + i) * stride,
           stride);
  }
}

}  // namespace

const Kernel kernel_amx = {Isa::amx,      false,      1,    kPasses* kPair, workspace_bytes,
                           scratch_bytes, pack_tasks, pack, attend};

}  // namespace sdcore::attention_kernels
