// Attention in float32, once for every vector class. All is held transposed, with queries along the
// lanes: scores are [key][query] and outputs [channel][query]. So maxima and sums over keys are
// plain vector operations, keys and values are read where they lie, one number at a time, and the
// tail of the keys needs no mask.
#pragma once

#include "kernels/attention/bias.h"
#include "kernels/attention/kernel.h"
#include "simd/math.h"

namespace sdcore::attention_kernels {

template <class V>
struct Streaming {
  using F = typename V::F;
  // The register tile: `rows` keys or channels by `columns` vectors of queries.
  static constexpr int rows = V::width == 1 ? 4 : 6;
  static constexpr int columns = V::width == 16 ? 4 : V::width == 8 ? 2 : 8;
  static constexpr int64_t lanes = columns * V::width;  // queries of one pass over a key tile
  static constexpr int64_t passes = 256 / lanes;        // reuse of a key tile while it is in cache
  static constexpr int64_t keys = 96;                   // of a tile: its scores stay in L1
  static constexpr int64_t depth = 128;                 // of a product before it is stored

  // Where a thread keeps its state.
  struct State {
    float *q, *out;      // [passes][d][lanes]
    float *top, *sum;    // [passes][lanes]: largest score so far, scaled, and sum of exponentials
    float* scores;       // [keys][lanes]
    float *key, *value;  // [keys][d] as float, rows copy_stride apart
    float* bias;
    size_t bytes;

    State(const AttentionArgs& args, std::byte* scratch) {
      const int64_t d = args.q.c / args.heads;
      auto* next = reinterpret_cast<float*>(scratch);
      const auto take = [&](int64_t count) {
        float* at = next;
        next += (count + 15) / 16 * 16;
        return at;
      };
      q = take(passes * d * lanes);
      out = take(passes * d * lanes);
      top = take(passes * lanes);
      sum = take(passes * lanes);
      scores = take(keys * lanes);
      key = take(keys * copy_stride(d));
      value = take(keys * copy_stride(d));
      bias = take(Bias<V>::floats(args, passes * lanes));
      bytes = static_cast<size_t>(next - reinterpret_cast<float*>(scratch)) * sizeof(float);
    }
  };

  // A matrix read one number at a time: element (row, k) is data[row * row_stride + k * k_stride].
  struct Broadcast {
    const float* data;
    int64_t row_stride, k_stride;
    Broadcast at(int64_t row, int64_t k) const {
      return {data + row * row_stride + k * k_stride, row_stride, k_stride};
    }
  };

  // c[n][lanes] (+)= a[n][depth] b[depth][lanes], in registers.
  template <int n>
  SDCORE_SIMD void tile(const Broadcast& a, const float* b, int64_t count, float* c, bool add) {
    F acc[n][columns];
    for (int r = 0; r < n; ++r) {
      for (int j = 0; j < columns; ++j) {
        acc[r][j] = add ? V::load(c + r * lanes + j * V::width) : V::zero();
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      F row[columns];
      for (int j = 0; j < columns; ++j) row[j] = V::load(b + k * lanes + j * V::width);
      for (int r = 0; r < n; ++r) {
        const F x = V::set(a.data[r * a.row_stride + k * a.k_stride]);
        for (int j = 0; j < columns; ++j) acc[r][j] = V::fma(x, row[j], acc[r][j]);
      }
    }
    for (int r = 0; r < n; ++r) {
      for (int j = 0; j < columns; ++j) V::store(c + r * lanes + j * V::width, acc[r][j]);
    }
  }

  // The last, shorter tile: as many rows as are left.
  template <int n = rows - 1>
  static void tail(const Broadcast& a, const float* b, int64_t count, float* c, bool add,
                   int64_t left) {
    if constexpr (n > 0) {
      if (left == n) return tile<n>(a, b, count, c, add);
      tail<n - 1>(a, b, count, c, add, left);
    }
  }

  // c[m][lanes] (+)= a[m][count] b[count][lanes]
  static void product(const Broadcast& a, int64_t m, const float* b, int64_t count, float* c,
                      bool add) {
    for (int64_t k = 0; k < count; k += depth) {
      const int64_t length = count - k < depth ? count - k : depth;
      int64_t r = 0;
      for (; r + rows <= m; r += rows) {
        tile<rows>(a.at(r, k), b + k * lanes, length, c + r * lanes, add || k > 0);
      }
      tail(a.at(r, k), b + k * lanes, length, c + r * lanes, add || k > 0, m - r);
    }
  }

  // Query i of the pass sees keys up to first_query + i: the others become -inf.
  static void mask(float* scores, int64_t first_key, int64_t count, int64_t first_query) {
    for (int64_t j = 0; j < count; ++j) {
      int64_t hidden = first_key + j - first_query;
      if (hidden > lanes) hidden = lanes;
      for (int64_t i = 0; i < hidden; ++i) scores[j * lanes + i] = -HUGE_VALF;
    }
  }

  // scores become exp(scores - top); what was summed under the old top is scaled to the new one.
  static void softmax(float* scores, int64_t count, float scale, float* top, float* sum, float* out,
                      int64_t d) {
    const F factor = V::set(scale * 1.44269504088896341f);
    F high[columns], total[columns], shrink[columns];
    bool moved = false;
    for (int j = 0; j < columns; ++j) high[j] = V::load(scores + j * V::width);
    for (int64_t k = 1; k < count; ++k) {
      const float* row = scores + k * lanes;
      for (int j = 0; j < columns; ++j) high[j] = V::max(high[j], V::load(row + j * V::width));
    }
    for (int j = 0; j < columns; ++j) {
      const F old = V::load(top + j * V::width);
      high[j] = V::max(old, V::mul(high[j], factor));
      shrink[j] = simd::exp2_nonpositive<V>(V::sub(old, high[j]));
      moved = moved || simd::any_less<V>(old, high[j]);
      V::store(top + j * V::width, high[j]);
      total[j] = V::zero();
      high[j] = simd::negate<V>(high[j]);
    }
    for (int64_t k = 0; k < count; ++k) {
      float* row = scores + k * lanes;
      for (int j = 0; j < columns; ++j) {
        const F x = V::fma(V::load(row + j * V::width), factor, high[j]);
        const F p = simd::exp2_nonpositive<V>(x);
        total[j] = V::add(total[j], p);
        V::store(row + j * V::width, p);
      }
    }
    for (int j = 0; j < columns; ++j) {
      float* s = sum + j * V::width;
      V::store(s, V::fma(V::load(s), shrink[j], total[j]));
    }
    if (!moved) return;
    for (int64_t i = 0; i < d; ++i) {
      for (int j = 0; j < columns; ++j) {
        float* o = out + i * lanes + j * V::width;
        V::store(o, V::mul(V::load(o), shrink[j]));
      }
    }
  }

  static float number(float x) { return x; }
  static float number(bf16 x) { return to_float(x); }
  static void put(float* p, float x) { *p = x; }
  static void put(bf16* p, float x) { *p = to_bf16(x); }

  template <class T>
  static const T* head_of(const View& v, const Block& block, int64_t d) {
    return static_cast<const T*>(v.data) + block.image * v.stride_n + block.head * d;
  }

  // A row of copied keys or values: an odd number of cache lines, since rows a power of two apart
  // would fight for the same lines of L1.
  static constexpr int64_t copy_stride(int64_t d) { return ((d + 15) / 16 | 1) * 16; }

  // [count][d] of a tile of keys or values as float. float32 is copied too: it is then read from
  // near, and in the order of memory.
  template <class T>
  static Broadcast floats(const T* from, int64_t stride, int64_t count, int64_t d, float* copy) {
    const int64_t to_stride = copy_stride(d);
    for (int64_t k = 0; k < count; ++k) {
      const T* row = from + k * stride;
      float* to = copy + k * to_stride;
      int64_t i = 0;
      for (; i + V::width <= d; i += V::width) V::store(to + i, V::load(row + i));
      if (i < d) V::store_n(to + i, V::load_n(row + i, d - i), d - i);
    }
    return {copy, to_stride, 1};
  }

  template <class T>
  static void begin(const AttentionArgs& args, const Block& block, int64_t d, const State& s) {
    const T* q = head_of<T>(args.q, block, d) + block.begin * args.q.stride_w;
    const int64_t count = block.end - block.begin;
    for (int64_t pass = 0; pass * lanes < count; ++pass) {
      float* to = s.q + pass * d * lanes;
      for (int64_t i = 0; i < lanes; ++i) {
        const int64_t query = pass * lanes + i;
        s.top[query] = -1e30f;  // finite, so that top - top is never inf - inf
        s.sum[query] = 0.0f;
        const T* row = q + query * args.q.stride_w;
        for (int64_t k = 0; k < d; ++k) to[k * lanes + i] = query < count ? number(row[k]) : 0.0f;
      }
      for (int64_t i = 0; i < d * lanes; ++i) s.out[pass * d * lanes + i] = 0.0f;
    }
  }

  template <class T>
  static void finish(const AttentionArgs& args, const Block& block, int64_t d, const State& s) {
    T* out = const_cast<T*>(head_of<T>(args.out, block, d)) + block.begin * args.out.stride_w;
    for (int64_t query = 0; query < block.end - block.begin; ++query) {
      const float* from = s.out + query / lanes * d * lanes + query % lanes;
      const float inverse = 1.0f / s.sum[query];
      for (int64_t i = 0; i < d; ++i) {
        put(out + query * args.out.stride_w + i, from[i * lanes] * inverse);
      }
    }
  }

  template <class T>
  static void attend_as(const AttentionArgs& args, const Block& block, std::byte* scratch) {
    const int64_t d = args.q.c / args.heads, tk = args.k.w;
    const State s(args, scratch);
    const Bias<V> bias(args, block, passes * lanes, s.bias);
    begin<T>(args, block, d, s);
    const T* k = head_of<T>(args.k, block, d);
    const T* v = head_of<T>(args.v, block, d);
    const int64_t visible = args.causal && block.end < tk ? block.end : tk;
    for (int64_t first = 0; first < visible; first += keys) {
      const int64_t count = visible - first < keys ? visible - first : keys;
      const int64_t ks = args.k.stride_w, vs = args.v.stride_w;
      const Broadcast key = floats(k + first * ks, ks, count, d, s.key);
      const Broadcast value = floats(v + first * vs, vs, count, d, s.value);
      for (int64_t pass = 0; pass * lanes < block.end - block.begin; ++pass) {
        const int64_t query = block.begin + pass * lanes;
        if (args.causal && query + lanes <= first) continue;
        float* out = s.out + pass * d * lanes;
        product(key, count, s.q + pass * d * lanes, d, s.scores, false);
        bias.template add<lanes>(s.scores, first, count, pass * lanes);
        if (args.causal) mask(s.scores, first, count, query);
        softmax(s.scores, count, args.scale, s.top + pass * lanes, s.sum + pass * lanes, out, d);
        product({value.data, 1, value.row_stride}, d, s.scores, count, out, true);
      }
    }
    finish<T>(args, block, d, s);
  }

  static size_t scratch_bytes(const AttentionArgs& args) { return State(args, nullptr).bytes; }
  static size_t workspace_bytes(const AttentionArgs&) { return 0; }
  static int64_t pack_tasks(const AttentionArgs&) { return 0; }
  static void pack(const AttentionArgs&, int64_t) {}
  static void attend(const AttentionArgs& args, const Block& block, std::byte* scratch) {
    if (args.q.dtype == DType::bf16) return attend_as<bf16>(args, block, scratch);
    attend_as<float>(args, block, scratch);
  }

  static constexpr Kernel kernel(Isa isa) {
    return {isa, true, 1, passes * lanes, workspace_bytes, scratch_bytes, pack_tasks, pack, attend};
  }
};

}  // namespace sdcore::attention_kernels
