// Attention in bf16 on AMX tiles. Scores are [query][key] and outputs [query][channel]. Keys and
// values are packed once a head into tiles; a block of queries then streams over them. While tiles
// are multiplied, vectors turn the scores of the keys before them into weights: both units are
// busy. Values have a channel of ones, whose output is the sum of the weights.
#include <algorithm>

#include "kernels/attention/softmax_amx.h"
#include "kernels/attention/tiles_amx.h"

namespace sdcore::attention_kernels {
namespace {

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
      if (channels < 16) {
        row = _mm512_mask_mov_epi32(row, static_cast<__mmask16>(1u << channels), ones);
      }
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

// 32 queries of a block, which `step` takes to their next keys.
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
    if (bias_.any()) bias_.template add_to_square<kPair>(from, key, present, query_);
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
