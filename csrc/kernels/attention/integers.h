// Attention of bf16 in products of 16-bit integers, for every vector class that has them.
// Transposed as in generic.h: scores are [key][query] and outputs [channel][query]. A number of 8
// significant bits times a power of two is exact in 16, unless it is far below the largest of its
// row:
//
//   queries, keys   each row by the power of two that brings its norm to [2^14, 2^15): whatever the
//                   head's size, no sum of products then leaves 32 bits
//   values          each channel of a tile of keys by the power of two with which its numbers fit
//                   16 bits, and their sum, times the largest weight, 32
//   weights         to 14 bits of the largest of the query in the tile
//
// Keys and values are packed once a call, in tiles of keys. Included only from files of one
// instruction set. `Op` is a vector class with pairs of integers.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/attention/bias.h"
#include "kernels/attention/kernel.h"
#include "kernels/attention/quantize.h"
#include "simd/math.h"

namespace sdcore::attention_kernels {

// `full_rows` keys or channels by up to `max_columns` vectors of queries are a register tile; rows
// divide the width of a vector, which is also that of the panels of packed keys and values.
template <class Op, int full_rows, int max_columns, int64_t tile_keys>
struct Integers {
  using F = typename Op::F;
  using I = typename Op::I;
  static constexpr int64_t width = Op::width;
  static constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
  static constexpr int64_t max_lanes = max_columns * width;  // queries of one pass over a tile
  static constexpr int64_t passes = (256 + max_lanes - 1) / max_lanes;
  static constexpr float kLeast = -1e30f;  // of scores: finite, so that top - top is not inf - inf

  // Sizes that follow from the arguments.
  struct Sizes {
    int64_t d, keys;      // keys of a tile
    int64_t pairs;        // of channels
    int64_t channels;     // rounded up to whole vectors
    int64_t tile, tiles;  // a packed tile in numbers of 32 bits, and how many a head has

    explicit Sizes(const AttentionArgs& args)
        : d(args.q.c / args.heads),
          keys(std::min(tile_keys, round_up(args.k.w, 2 * width))),
          pairs((d + 1) / 2),
          channels(round_up(d, width)),
          tile(keys * pairs + keys / 2 * channels + keys + channels),
          tiles((args.k.w + keys - 1) / keys) {}
  };

  // A packed tile: panels of `width` keys are [pair of channels][key], panels of `width` channels
  // [pair of keys][channel].
  struct Tile {
    int32_t *keys, *values;
    float *key_scales, *value_scales;

    Tile(const AttentionArgs& args, const Sizes& s, int64_t sequence, int64_t tile)
        : keys(static_cast<int32_t*>(args.workspace) + (sequence * s.tiles + tile) * s.tile),
          values(keys + s.keys * s.pairs),
          key_scales(reinterpret_cast<float*>(values + s.keys / 2 * s.channels)),
          value_scales(key_scales + s.keys) {}
  };

  // A thread's state: a block's queries, outputs and sums, and one pass's scores. Each pass has
  // lanes for its own queries alone, rounded up to whole vectors.
  struct State {
    int32_t* q;        // [passes][pairs][lanes]
    float* out;        // [passes][channels][lanes]
    float* scale;      // [passes][lanes]: of the integers of q
    float *top, *sum;  // [passes][lanes]: largest score so far, scaled, and sum of exponentials
    float* scores;     // [keys][lanes]; then weights, [pair of keys][lanes]
    float* bias;
    size_t bytes;

    State(const AttentionArgs& args, const Sizes& s, std::byte* scratch) {
      std::byte* next = scratch;
      const auto take = [&](int64_t count) {
        auto* at = reinterpret_cast<float*>(next);
        next += round_up(count, 16) * 4;
        return at;
      };
      q = reinterpret_cast<int32_t*>(take(passes * s.pairs * max_lanes));
      out = take(passes * s.channels * max_lanes);
      scale = take(passes * max_lanes);
      top = take(passes * max_lanes);
      sum = take(passes * max_lanes);
      scores = take(s.keys * max_lanes);
      bias = take(Bias<Op>::floats(args, passes * max_lanes));
      bytes = static_cast<size_t>(next - scratch);
    }
  };

  static const bf16* head_of(const View& v, int64_t image, int64_t head, int64_t d) {
    return static_cast<const bf16*>(v.data) + image * v.stride_n + head * d;
  }

  // --- a pass of `columns` vectors of queries over a tile ---

  template <int columns>
  struct Pass {
    static constexpr int64_t lanes = columns * width;
    // So few vectors need more rows, for enough sums to be under way at once.
    static constexpr int rows = columns == 1 ? 2 * full_rows : full_rows;

    // sums[n][columns] = a[n][count] b[count][lanes]; a is a panel.
    template <int n>
    SDCORE_SIMD void multiply(const int32_t* a, const int32_t* b, int64_t count,
                              I (&sums)[n][columns]) {
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j) sums[r][j] = I{};
      }
      for (; count > 0; --count, a += width, b += lanes) {
        I row[columns];
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j) row[j] = Op::load_bits(b + j * width);
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r) {
          const I x = Op::broadcast(a + r);
#pragma GCC unroll 8
          for (int j = 0; j < columns; ++j) sums[r][j] = Op::dot_pairs(x, row[j], sums[r][j]);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j) Op::keep(sums[r][j]);
      }
    }

    // Scores of n keys, but for the scale of the queries. Never inlined, as its sums would then be
    // on the stack.
    template <int n>
    [[gnu::noinline]] static void score_tile(const int32_t* keys, const int32_t* q, int64_t pairs,
                                             const float* scales, float* scores) {
      I sums[n][columns];
      multiply<n>(keys, q, pairs, sums);
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) {
        const F scale = Op::set(scales[r]);
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j) {
          Op::store(scores + r * lanes + j * width, Op::mul(Op::to_float(sums[r][j]), scale));
        }
      }
    }

    // What turns the sum of a tile into outputs, for each query.
    struct Factors {
      F shrink[columns];   // of what was summed before
      F grow[columns];     // of the tile
      bool moved = false;  // whether any shrinks
    };

    template <int n>
    [[gnu::noinline]] static void weigh_tile(const int32_t* values, const int32_t* weights,
                                             int64_t count, const float* scales, const Factors& by,
                                             float* out) {
      I sums[n][columns];
      multiply<n>(values, weights, count, sums);
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) {
        const F scale = Op::set(scales[r]);
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j) {
          float* to = out + r * lanes + j * width;
          const F part = Op::mul(Op::to_float(sums[r][j]), by.grow[j]);
          F before = Op::load(to);
          if (by.moved) before = Op::mul(before, by.shrink[j]);
          Op::store(to, Op::fma(part, scale, before));
        }
      }
    }

    // The last, shorter tile of a panel or of all.
    template <class Run, int n = rows>
    SDCORE_SIMD void with_rows(int64_t left, const Run& run) {
      if (left >= n) return run(std::integral_constant<int, n>());
      if constexpr (n > 1) with_rows<Run, n - 1>(left, run);
    }

    static void score(const Sizes& s, const Tile& tile, int64_t count, const int32_t* q,
                      float* scores) {
      for (int64_t r = 0; r < count; r += rows) {
        const int32_t* keys = tile.keys + r / width * s.pairs * width + r % width;
        with_rows(count - r, [&](auto n) {
          score_tile<n>(keys, q, s.pairs, tile.key_scales + r, scores + r * lanes);
        });
      }
    }

    static void weigh(const Sizes& s, const Tile& tile, int64_t count, const float* weights,
                      const Factors& by, float* out) {
      const auto* w = reinterpret_cast<const int32_t*>(weights);
      for (int64_t r = 0; r < s.d; r += rows) {
        const int32_t* values = tile.values + r / width * (s.keys / 2) * width + r % width;
        with_rows(s.d - r, [&](auto n) {
          weigh_tile<n>(values, w, (count + 1) / 2, tile.value_scales + r, by, out + r * lanes);
        });
      }
    }

    // Query i of the pass sees keys up to first_query + i: the others become -inf.
    static void mask(float* scores, int64_t first_key, int64_t count, int64_t first_query) {
      for (int64_t j = std::max<int64_t>(0, first_query - first_key); j < count; ++j) {
        std::fill_n(scores + j * lanes, std::min(lanes, first_key + j - first_query), -HUGE_VALF);
      }
    }

    // Scores as the bias wants them: with all their scales.
    static void apply(const float* scale, int64_t count, float* scores) {
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t i = 0; i < lanes; i += width) {
          float* at = scores + k * lanes + i;
          Op::store(at, Op::mul(Op::load(at), Op::load(scale + i)));
        }
      }
    }

    static void highest(const float* scores, int64_t count, F (&high)[columns]) {
      for (int j = 0; j < columns; ++j) high[j] = Op::load(scores + j * width);
      for (int64_t k = 1; k < count; ++k) {
        const float* row = scores + k * lanes;
        for (int j = 0; j < columns; ++j) high[j] = Op::max(high[j], Op::load(row + j * width));
      }
    }

    // NaN for queries with a score that is NaN, else 0: weights, being integers, do not tell.
    static void add_unordered(const float* scores, int64_t count, F (&to)[columns]) {
      for (int64_t k = 0; k < count; ++k) {
        for (int j = 0; j < columns; ++j) {
          const F score = Op::max(Op::set(kLeast), Op::load(scores + k * lanes + j * width));
          to[j] = Op::fma(score, Op::zero(), to[j]);
        }
      }
    }

    // How the scores of a tile become powers of two: 2^(score * factor + shift), after `center` has
    // been taken off those of queries whose products are too large to be told apart in float32.
    struct Exponents {
      F factor[columns], center[columns], shift[columns];
      F high[columns];  // the largest score, scaled
      F rest[columns];  // what rounding took off `high` where a center is
      bool centered = false;

      Exponents(const float* scores, int64_t count, const F (&by)[columns]) {
        highest(scores, count, high);
        for (int j = 0; j < columns; ++j) {
          const F raw = high[j];
          factor[j] = by[j];
          high[j] = Op::max(Op::set(kLeast), Op::mul(raw, factor[j]));
          const F size = simd::abs<Op>(high[j]);
          center[j] = Op::select_less(Op::set(1 << 14), size, raw, Op::zero());
          center[j] = Op::select_less(Op::set(-kLeast / 2), size, Op::zero(), center[j]);
          const F taken = Op::mul(center[j], factor[j]);
          shift[j] = Op::sub(Op::set(kWeightBits), Op::sub(high[j], taken));
          rest[j] = Op::fma(center[j], factor[j], simd::negate<Op>(taken));
          centered = centered || simd::any_less<Op>(Op::zero(), simd::abs<Op>(center[j]));
        }
      }

      void take_centers(float* scores, int64_t count) const {
        for (int64_t k = 0; k < count; ++k) {
          for (int j = 0; j < columns; ++j) {
            float* at = scores + k * lanes + j * width;
            Op::store(at, Op::sub(Op::load(at), center[j]));
          }
        }
      }

      SDCORE_SIMD F weight(const Exponents& e, const float* row, int j) {
        const F x = Op::fma(Op::load(row + j * width), e.factor[j], e.shift[j]);
        return simd::exp2_coarse<Op>(x);
      }
    };

    // Scores become weights; their sums.
    static void exponentials(float* scores, int64_t count, const Exponents& e,
                             I (&total)[columns]) {
      static constexpr int16_t one[] = {1, 1};
      const I ones = Op::broadcast(one);
      for (int j = 0; j < columns; ++j) total[j] = I{};
      const auto put = [&](int64_t k, const I(&pairs)[columns]) {
        for (int j = 0; j < columns; ++j) {
          total[j] = Op::dot_pairs(pairs[j], ones, total[j]);
          Op::store_bits(scores + k / 2 * lanes + j * width, pairs[j]);
        }
      };
      I pairs[columns];
      int64_t k = 0;
      for (; k + 2 <= count; k += 2) {
        const float* row = scores + k * lanes;
        for (int j = 0; j < columns; ++j) {
          pairs[j] =
              Op::to_pairs(Exponents::weight(e, row, j), Exponents::weight(e, row + lanes, j));
        }
        put(k, pairs);
      }
      if (k == count) return;
      for (int j = 0; j < columns; ++j) {
        pairs[j] = Op::to_pairs(Exponents::weight(e, scores + k * lanes, j), Op::zero());
      }
      put(k, pairs);
    }

    // Scores become weights of the tile's own largest, and what to do with their products follows.
    static Factors softmax(float* scores, int64_t count, const F (&factor)[columns], bool unordered,
                           float* top, float* sum) {
      Factors by;
      const Exponents e(scores, count, factor);
      F poison[columns];
      I total[columns];
      for (int j = 0; j < columns; ++j) poison[j] = Op::zero();
      if (unordered) add_unordered(scores, count, poison);
      if (e.centered) e.take_centers(scores, count);
      exponentials(scores, count, e, total);
      for (int j = 0; j < columns; ++j) {
        const F old = Op::load(top + j * width), next = Op::max(old, e.high[j]);
        by.shrink[j] = simd::exp2_nonpositive<Op>(Op::sub(old, next));
        const F weight = simd::exp2_nonpositive<Op>(Op::add(Op::sub(e.high[j], next), e.rest[j]));
        by.grow[j] = Op::fma(weight, Op::set(1.0f / (1 << kWeightBits)), poison[j]);
        by.moved = by.moved || simd::any_less<Op>(old, next);
        Op::store(top + j * width, next);
        const F part = Op::mul(Op::to_float(total[j]), by.grow[j]);
        Op::store(sum + j * width, Op::fma(Op::load(sum + j * width), by.shrink[j], part));
      }
      return by;
    }

    // Whether a key of the tile is not finite.
    static bool any_unordered(const float* scales, int64_t keys) {
      F sum = Op::zero();
      for (int64_t k = 0; k < keys; k += width) sum = Op::add(sum, Op::load(scales + k));
      const float total = Op::sum(sum);
      return total != total;
    }

    // `count` keys from `first` for the queries of a pass, the first of which is `query` of its
    // block.
    static void step(const AttentionArgs& args, const Block& block, const Sizes& s,
                     const State& state, const Tile& tile, const Bias<Op>& bias, int64_t first,
                     int64_t count, int64_t query) {
      float* out = state.out + query * s.channels;
      const float* scale = state.scale + query;
      score(s, tile, count, state.q + query * s.pairs, state.scores);
      F factor[columns];
      const F log2 = Op::set(args.scale * 1.44269504088896341f);
      for (int j = 0; j < columns; ++j) factor[j] = Op::mul(Op::load(scale + j * width), log2);
      if (bias.any()) {
        apply(scale, count, state.scores);
        bias.template add<lanes>(state.scores, first, count, query);
        for (int j = 0; j < columns; ++j) {
          factor[j] = Op::fma(Op::load(scale + j * width), Op::zero(), log2);  // NaN stays
        }
      }
      if (args.causal) mask(state.scores, first, count, block.begin + query);
      const bool unordered = any_unordered(tile.key_scales, s.keys);
      const Factors by =
          softmax(state.scores, count, factor, unordered, state.top + query, state.sum + query);
      weigh(s, tile, count, state.scores, by, out);
    }

    // The state before any key.
    static void begin(const AttentionArgs& args, const bf16* q, int64_t count, const Sizes& s,
                      const State& state, int64_t query) {
      for (int64_t i = 0; i < lanes; i += width) {
        const int64_t row = std::min(i, count - 1);
        Quantizer<Op>::quantize_rows(q + row * args.q.stride_w, args.q.stride_w,
                                     std::max<int64_t>(1, count - i), s.d,
                                     state.q + query * s.pairs + i, lanes, state.scale + query + i);
      }
      std::fill_n(state.out + query * s.channels, s.channels * lanes, 0.0f);
      std::fill_n(state.top + query, lanes, kLeast);
      std::fill_n(state.sum + query, lanes, 0.0f);
    }

    // Outputs over their sums.
    static void finish(const State& state, const Sizes& s, int64_t query, int64_t count, bf16* to,
                       int64_t stride) {
      for (int64_t i = 0; i < count; i += width) {
        const float* from = state.out + query * s.channels + i;
        alignas(64) float inverses[width];
        Op::store(inverses, Op::div(Op::set(1.0f), Op::load(state.sum + query + i)));
        const int64_t n = std::min(width, count - i);
        for (int64_t c = 0; c < s.d; c += width) {
          put_square(from + c * lanes, inverses, n, std::min(width, s.d - c), to + i * stride + c,
                     stride);
        }
      }
    }

    static void put_square(const float* from, const float* inverses, int64_t n, int64_t channels,
                           bf16* to, int64_t stride) {
      alignas(64) float square[width][width];
      typename Op::Bits bits[width];
      for (int64_t r = 0; r < width; ++r) bits[r] = Op::load_bits(from + r * lanes);
      Op::transpose(bits);
      for (int64_t r = 0; r < width; ++r) Op::store_bits(square[r], bits[r]);
      for (int64_t r = 0; r < n; ++r) {
        const F x = Op::mul(Op::load(square[r]), Op::set(inverses[r]));
        if (channels == width) {
          Op::store(to + r * stride, x);
        } else {
          Op::store_n(to + r * stride, x, channels);
        }
      }
    }
  };

  // run(Pass<n>()) where n vectors hold `count` queries.
  template <int n = max_columns, class Run>
  SDCORE_SIMD void with_columns(int64_t count, const Run& run) {
    if constexpr (n > 1) {
      if (count <= (n - 1) * width) return with_columns<n - 1>(count, run);
    }
    run(Pass<n>());
  }

  // --- the row of the registry ---

  static size_t workspace_bytes(const AttentionArgs& args) {
    const Sizes s(args);
    return static_cast<size_t>(args.q.n * args.heads * s.tiles * s.tile) * sizeof(int32_t);
  }

  static size_t scratch_bytes(const AttentionArgs& args) {
    return State(args, Sizes(args), nullptr).bytes;
  }

  static int64_t pack_tasks(const AttentionArgs& args) {
    return args.q.n * args.heads * Sizes(args).tiles;
  }

  static void pack(const AttentionArgs& args, int64_t task) {
    const Sizes s(args);
    const int64_t sequence = task / s.tiles, first = task % s.tiles * s.keys;
    const int64_t image = sequence / args.heads, head = sequence % args.heads;
    const int64_t count = std::min(s.keys, args.k.w - first);
    const Tile tile(args, s, sequence, task % s.tiles);
    const bf16* k = head_of(args.k, image, head, s.d) + first * args.k.stride_w;
    const bf16* v = head_of(args.v, image, head, s.d) + first * args.v.stride_w;
    std::fill_n(tile.key_scales, s.keys, 0.0f);
    for (int64_t r = 0; r < count; r += width) {
      Quantizer<Op>::quantize_rows(k + r * args.k.stride_w, args.k.stride_w, count - r, s.d,
                                   tile.keys + r * s.pairs, width, tile.key_scales + r);
    }
    Quantizer<Op>::quantize_values(v, args.v.stride_w, count, s.d, tile.values, s.keys / 2 * width,
                                   tile.value_scales);
  }

  static void attend(const AttentionArgs& args, const Block& block, std::byte* scratch) {
    const Sizes s(args);
    const State state(args, s, scratch);
    const Bias<Op> bias(args, block, passes * max_lanes, state.bias);
    const int64_t queries = block.end - block.begin;
    const int64_t visible = args.causal ? std::min(block.end, args.k.w) : args.k.w;
    const bf16* q = head_of(args.q, block.image, block.head, s.d) + block.begin * args.q.stride_w;
    bf16* out = const_cast<bf16*>(head_of(args.out, block.image, block.head, s.d)) +
                block.begin * args.out.stride_w;
    const auto each_pass = [&](const auto& run) {
      for (int64_t query = 0; query < queries; query += max_lanes) {
        const int64_t count = std::min(max_lanes, queries - query);
        with_columns(count, [&](auto pass) { run(pass, query, count); });
      }
    };
    each_pass([&](auto pass, int64_t query, int64_t count) {
      pass.begin(args, q + query * args.q.stride_w, count, s, state, query);
    });
    for (int64_t first = 0; first < visible; first += s.keys) {
      const Tile tile(args, s, block.image * args.heads + block.head, first / s.keys);
      const int64_t keys = std::min(s.keys, visible - first);
      each_pass([&](auto pass, int64_t query, int64_t count) {
        if (args.causal && block.begin + query + count <= first) return;
        pass.step(args, block, s, state, tile, bias, first, keys, query);
      });
    }
    each_pass([&](auto pass, int64_t query, int64_t count) {
      pass.finish(state, s, query, count, out + query * args.out.stride_w, args.out.stride_w);
    });
  }

  static constexpr Kernel kernel(Isa isa, int64_t least_queries = 1) {
    return {isa,        false, least_queries, passes * max_lanes, workspace_bytes, scratch_bytes,
            pack_tasks, pack,  attend};
  }
};

}  // namespace sdcore::attention_kernels
