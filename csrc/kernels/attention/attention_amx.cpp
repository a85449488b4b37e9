// Attention in bf16 on AMX tiles, transposed like the float32 one: scores are [key][query] and
// outputs [channel][query], so that softmax runs along lanes of queries. Keys (rows of channels)
// and values (transposed: rows of keys) are packed once a head into tiles; a block of queries then
// streams over them.
#include <algorithm>

#include "kernels/attention/bias.h"
#include "kernels/attention/kernel.h"
#include "simd/avx512.h"
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
constexpr int64_t kKeys = 256;  // of a step of the running softmax

int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Sizes that follow from the arguments.
struct Sizes {
  int64_t d, keys;        // keys rounded up to 32
  int64_t steps;          // of 32 channels: the depth of q kᵀ
  int64_t bands;          // of 16 channels: the height of vᵀ
  int64_t head_elements;  // packed keys and values of a head

  explicit Sizes(const AttentionArgs& args)
      : d(args.q.c / args.heads),
        keys(round_up(args.k.w, kPair)),
        steps((d + 31) / 32),
        bands((d + 15) / 16),
        head_elements(keys * (steps * 32 + bands * 16)) {}
};

using TileBias = Bias<V>;

// Packed tiles of one head.
struct Packed {
  bf16 *key, *value;  // [keys/16][steps][tile], [keys/32][bands][tile]

  Packed(const AttentionArgs& args, const Sizes& s, int64_t image, int64_t head)
      : key(static_cast<bf16*>(args.workspace) + (image * args.heads + head) * s.head_elements),
        value(key + s.keys * s.steps * 32) {}
  const bf16* key_tile(const Sizes& s, int64_t first) const {
    return key + first / kLanes * s.steps * kTileElements;
  }
  const bf16* value_tile(const Sizes& s, int64_t first) const {
    return value + first / kPair * s.bands * kTileElements;
  }
};

// A thread's state: a block's queries, outputs and sums, and one pass's scores and weights.
struct State {
  bf16* q;           // [passes][2][steps][tile]
  float* out;        // [passes][2][bands][16 channels][16 queries]
  float *top, *sum;  // [passes][32]: largest score so far, scaled, and sum of exponentials
  float* scores;     // [2][keys][16]
  bf16* weights;     // [2][keys / 32][tile]
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
    scores = reinterpret_cast<float*>(take(2 * kKeys * kLanes * 4));
    weights = reinterpret_cast<bf16*>(take(2 * kKeys * kLanes * 2));
    top = reinterpret_cast<float*>(take(kPasses * kPair * 4));
    sum = reinterpret_cast<float*>(take(kPasses * kPair * 4));
    bias = reinterpret_cast<float*>(take(TileBias::floats(args, kPasses * kPair) * 4));
    bytes = static_cast<size_t>(next - scratch);
  }
};

// --- tiles ---

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// GCC's tile loads do not say that they read memory; this makes earlier stores visible to them.
void fence() { __asm__ volatile("" ::: "memory"); }

// c[i][j] += a[i] b[j] over `depth` tiles for i < rows and j < 2: tiles 0-3 are sums, 4-5 come from
// a, 6-7 from b.
template <int rows>
void multiply(const bf16* const (&a)[2], int64_t a_step, const bf16* const (&b)[2], int64_t b_step,
              int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    _tile_loadd(6, b[0] + k * b_step, 64);
    _tile_loadd(7, b[1] + k * b_step, 64);
    _tile_loadd(4, a[0] + k * a_step, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (rows == 2) {
      _tile_loadd(5, a[1] + k * a_step, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

// scores[2][count][16] = keys · queries; count is rounded up to 32.
void score(const Sizes& s, const bf16* key, const bf16* q, int64_t count, float* scores) {
  const bf16* const b[2] = {q, q + s.steps * kTileElements};
  fence();
  for (int64_t k = 0; k < count; k += 2 * kLanes) {
    const bf16* first = key + k / kLanes * s.steps * kTileElements;
    const bf16* const a[2] = {first, first + s.steps * kTileElements};
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    multiply<2>(a, kTileElements, b, kTileElements, s.steps);
    float* to = scores + k * kLanes;
    _tile_stored(0, to, 64);
    _tile_stored(1, to + kKeys * kLanes, 64);
    _tile_stored(2, to + kLanes * kLanes, 64);
    _tile_stored(3, to + kKeys * kLanes + kLanes * kLanes, 64);
  }
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
  fence();
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

F highest(const float* scores, int64_t count) {
  F high[4];
  for (int64_t i = 0; i < 4; ++i) high[i] = V::load(scores + std::min(i, count - 1) * kLanes);
  int64_t k = 4;
  for (; k + 4 <= count; k += 4) {
    for (int64_t i = 0; i < 4; ++i) high[i] = V::max(high[i], V::load(scores + (k + i) * kLanes));
  }
  for (; k < count; ++k) high[0] = V::max(high[0], V::load(scores + k * kLanes));
  return V::max(V::max(high[0], high[1]), V::max(high[2], high[3]));
}

// Two vectors as the pairs that a tile multiplies: lane i holds even[i] and odd[i].
__m512i pairs(F even, F odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  return _mm512_permutexvar_epi16(order, both);
}

// weights = exp(scores - top) in bf16, zeros up to a multiple of 32 keys; returns their sum.
F exponentials(const float* scores, int64_t count, F factor, F top, bf16* weights) {
  const F shift = simd::negate<V>(top);
  const auto weight = [&](int64_t k) {
    return simd::exp2_coarse<V>(V::fma(V::load(scores + k * kLanes), factor, shift));
  };
  F even = V::zero(), odd = V::zero();
  __m512i* to = reinterpret_cast<__m512i*>(weights);
  int64_t k = 0;
  for (; k + 2 <= count; k += 2) {
    const F a = weight(k), b = weight(k + 1);
    even = V::add(even, a);
    odd = V::add(odd, b);
    _mm512_store_si512(to++, pairs(a, b));
  }
  if (k < count) {
    const F a = weight(k);
    even = V::add(even, a);
    _mm512_store_si512(to++, pairs(a, V::zero()));
    k += 2;
  }
  for (; k < round_up(count, kPair); k += 2) _mm512_store_si512(to++, _mm512_setzero_si512());
  return V::add(even, odd);
}

// One tile of queries: scores to weights; what was summed under the old top is scaled to the new.
void softmax(const float* scores, int64_t count, float scale, float* top, float* sum, bf16* weights,
             float* out, int64_t d) {
  const F factor = V::set(scale * 1.44269504088896341f);
  const F old = V::load(top);
  const F high = V::max(old, V::mul(highest(scores, count), factor));
  const F total = exponentials(scores, count, factor, high, weights);
  const F shrink = simd::exp2_nonpositive<V>(V::sub(old, high));
  V::store(top, high);
  V::store(sum, V::fma(V::load(sum), shrink, total));
  if (!simd::any_less<V>(old, high)) return;
  for (int64_t i = 0; i < d; ++i) {
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

// 32 keys: two tiles of 16 keys for each 32 channels.
void pack_keys(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to) {
  for (int64_t r = 0; r < kPair; ++r) {
    bf16* row = to + r / kLanes * s.steps * kTileElements + r % kLanes * 32;
    for (int64_t step = 0; step < s.steps; ++step) {
      const int64_t channels = r < count ? s.d - step * 32 : 0;
      _mm512_store_si512(row + step * kTileElements,
                         load32(from + r * stride + step * 32, channels));
    }
  }
}

// 32 values: a tile of 16 channels by 32 keys for each 16 channels.
void pack_values(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to) {
  for (int64_t band = 0; band < s.bands; ++band) {
    __m512i rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      const auto key = [&](int64_t k) {
        return load16(from + k * stride + band * 16, k < count ? s.d - band * 16 : 0);
      };
      rows[r] = _mm512_or_si512(key(2 * r), _mm512_slli_epi32(key(2 * r + 1), 16));
    }
    V::transpose(rows);
    for (int64_t r = 0; r < 16; ++r) {
      _mm512_store_si512(to + band * kTileElements + r * 32, rows[r]);
    }
  }
}

// 16 queries: for each 32 channels a tile of channel pairs by queries.
void pack_queries(const bf16* from, int64_t stride, int64_t count, const Sizes& s, bf16* to) {
  for (int64_t step = 0; step < s.steps; ++step) {
    __m512i rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      rows[r] = load32(from + r * stride + step * 32, r < count ? s.d - step * 32 : 0);
    }
    V::transpose(rows);
    for (int64_t r = 0; r < 16; ++r) {
      _mm512_store_si512(to + step * kTileElements + r * 32, rows[r]);
    }
  }
}

// 16 queries of outputs over their sums.
void unpack(const float* from, const float* sum, int64_t count, int64_t d, bf16* to,
            int64_t stride) {
  const F inverse = V::div(V::set(1.0f), V::load(sum));
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
  pack_keys(head_of(args.k, image, head, s.d) + first * ks, ks, count, s,
            packed.key + first * s.steps * 32);
  pack_values(head_of(args.v, image, head, s.d) + first * vs, vs, count, s,
              packed.value + first * s.bands * 16);
}

// The state of a block before any key.
void begin(const AttentionArgs& args, const Block& block, const Sizes& s, const State& state) {
  const int64_t stride = args.q.stride_w, count = block.end - block.begin;
  const bf16* q = head_of(args.q, block.image, block.head, s.d) + block.begin * stride;
  for (int64_t i = 0; i < count; i += kLanes) {
    pack_queries(q + i * stride, stride, count - i, s, state.q + i * s.steps * 32);
  }
  const int64_t padded = round_up(count, kPair);
  for (int64_t i = round_up(count, kLanes); i < padded; i += kLanes) {
    std::fill_n(state.q + i * s.steps * 32, s.steps * kTileElements, bf16{0});
  }
  std::fill_n(state.out, padded * s.bands * 16, 0.0f);
  std::fill_n(state.top, padded, -1e30f);  // finite, so that top - top is never inf - inf
  std::fill_n(state.sum, padded, 0.0f);
}

// One step: `count` keys from `first` for the 32 queries of a pass.
void step(const AttentionArgs& args, const Block& block, const Sizes& s, const State& state,
          const Packed& packed, const TileBias& bias, int64_t first, int64_t count, int64_t pass) {
  float* out = state.out + pass * kPair * s.bands * 16;
  score(s, packed.key_tile(s, first), state.q + pass * kPair * s.steps * 32, count, state.scores);
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t query = pass * kPair + half * kLanes;
    float* scores = state.scores + half * kKeys * kLanes;
    bias.add<kLanes>(scores, first, count, query);
    if (args.causal) mask(scores, first, count, block.begin + query);
    softmax(scores, count, args.scale, state.top + query, state.sum + query,
            state.weights + half * kKeys * kLanes, out + half * s.bands * 16 * kLanes, s.d);
  }
  weigh(s, packed.value_tile(s, first), state.weights, round_up(count, kPair), out);
}

void attend(const AttentionArgs& args, const Block& block, std::byte* scratch) {
  const Sizes s(args);
  const State state(args, s, scratch);
  const TileBias bias(args, block, kPasses * kPair, state.bias);
  const Packed packed(args, s, block.image, block.head);
  const int64_t queries = block.end - block.begin, tk = args.k.w;
  static constexpr TileConfig config;
  _tile_loadconfig(&config);
  begin(args, block, s, state);
  const int64_t visible = args.causal ? std::min(block.end, tk) : tk;
  for (int64_t first = 0; first < visible; first += kKeys) {
    const int64_t count = std::min(kKeys, visible - first);
    for (int64_t pass = 0; pass * kPair < queries; ++pass) {
      if (args.causal && block.begin + (pass + 1) * kPair <= first) continue;
      step(args, block, s, state, packed, bias, first, count, pass);
    }
  }
  _tile_release();
  const int64_t stride = args.out.stride_w;
  bf16* out = const_cast<bf16*>(head_of(args.out, block.image, block.head, s.d));
  for (int64_t i = 0; i < queries; i += kLanes) {
    unpack(state.out + i * s.bands * 16, state.sum + i, queries - i, s.d,
           out + (block.begin + i) * stride, stride);
  }
}

}  // namespace

const Kernel kernel_amx = {Isa::amx,      false,      1,    kPasses* kPair, workspace_bytes,
                           scratch_bytes, pack_tasks, pack, attend};

}  // namespace sdcore::attention_kernels
