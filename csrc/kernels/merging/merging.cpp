// Portable code alone: next to the attention that it spares, it is nothing.
#include "kernels/merging/merging.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace sdcore {
namespace {

constexpr int64_t kLanes = 8;   // of a dot product
constexpr int64_t kBlock = 16;  // groups whose means are summed in one task

void require_here(const KernelContext& context) {
  require(context.device == nullptr, ErrorKind::invalid_argument,
          "[token_groups] tokens are merged on the CPU only: leave out token_merging_ratio");
}

float value(float x) { return x; }
float value(bf16 x) { return to_float(x); }

template <class T>
void load(const T* from, int64_t c, float* to) {
  for (int64_t i = 0; i < c; ++i) to[i] = value(from[i]);
}

void load(const View& v, int64_t n, int64_t t, float* to) {
  if (v.dtype == DType::f32) return load(v.at<const float>(n, 0, t), v.c, to);
  load(v.at<const bf16>(n, 0, t), v.c, to);
}

void store(const float* from, const View& v, int64_t n, int64_t t) {
  if (v.dtype == DType::f32) {
    std::memcpy(v.at<float>(n, 0, t), from, sizeof(float) * static_cast<size_t>(v.c));
    return;
  }
  bf16* to = v.at<bf16>(n, 0, t);
  for (int64_t i = 0; i < v.c; ++i) to[i] = to_bf16(from[i]);
}

// In lanes of a fixed number, so that the sum is the same wherever it is compiled.
float dot(const float* a, const float* b, int64_t c) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= c; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (int64_t lane = 0; i < c; ++i, ++lane) sums[lane] += a[i] * b[i];
  float total = 0.0f;
  for (const float sum : sums) total += sum;
  return total;
}

bool stays(int64_t y, int64_t x) { return y % 2 == 0 && x % 2 == 0; }

struct Nearest {
  float likeness = 0.0f;
  int32_t token = -1;  // that stays
};

// For each token of an image its nearest of those that stay, if it does not stay itself.
struct Search {
  const TokenGroupsArgs& args;
  const float* tokens;  // [height * width, c] of length 1
  Nearest* found;       // [height * width]

  void row(int64_t y) const {
    const int64_t w = args.width, c = args.in.c;
    const int64_t top = std::max<int64_t>(y / 2 * 2 - 2, 0);
    const int64_t bottom = std::min((y / 2 + 1) * 2, (args.height - 1) / 2 * 2);
    for (int64_t x = 0; x < w; ++x) {
      if (stays(y, x)) continue;
      const int64_t left = std::max<int64_t>(x / 2 * 2 - 2, 0);
      const int64_t right = std::min((x / 2 + 1) * 2, (w - 1) / 2 * 2);
      Nearest& best = found[y * w + x];
      best = {-2.0f, -1};
      for (int64_t i = top; i <= bottom; i += 2) {
        for (int64_t j = left; j <= right; j += 2) {
          const float likeness = dot(tokens + (y * w + x) * c, tokens + (i * w + j) * c, c);
          // Also where it is not a number, which is like nothing.
          if (best.token < 0 || likeness > best.likeness) {
            best = {likeness == likeness ? likeness : -2.0f, static_cast<int32_t>(i * w + j)};
          }
        }
      }
    }
  }
};

void number(const TokenGroupsArgs& args, int64_t n, const Nearest* found) {
  const int64_t t = args.in.w;
  std::vector<int32_t> joining;
  for (int64_t i = 0; i < t; ++i) {
    if (!stays(i / args.width, i % args.width)) joining.push_back(static_cast<int32_t>(i));
  }
  // An order without ties, so that the chosen are the same in any library.
  const auto nearer = [found](int32_t a, int32_t b) {
    if (found[a].likeness != found[b].likeness) return found[a].likeness > found[b].likeness;
    return a < b;
  };
  std::nth_element(joining.begin(), joining.begin() + args.merged, joining.end(), nearer);
  std::vector<char> joins(static_cast<size_t>(t), 0);
  for (int64_t i = 0; i < args.merged; ++i) {
    joins[static_cast<size_t>(joining[static_cast<size_t>(i)])] = 1;
  }
  int32_t count = 0;
  for (int64_t i = 0; i < t; ++i) {
    if (!joins[static_cast<size_t>(i)]) *args.groups.at<int32_t>(n, 0, i) = count++;
  }
  for (int64_t i = 0; i < t; ++i) {
    if (!joins[static_cast<size_t>(i)]) continue;
    *args.groups.at<int32_t>(n, 0, i) = *args.groups.at<int32_t>(n, 0, found[i].token);
  }
}

void require_groups(const char* op, const View& groups, int64_t n, int64_t t) {
  require(groups.dtype == DType::i32 && groups.n == n && groups.h == 1 && groups.w == t,
          ErrorKind::invalid_argument, "[", op, "] groups must be i32, one a token");
}

}  // namespace

int64_t merged_tokens(int64_t height, int64_t width, double ratio) {
  const int64_t all = height * width;
  const int64_t staying = ((height + 1) / 2) * ((width + 1) / 2);
  return std::min(static_cast<int64_t>(static_cast<double>(all) * ratio), all - staying);
}

void token_groups(const TokenGroupsArgs& args, const KernelContext& context) {
  require_here(context);
  const View& in = args.in;
  const int64_t t = in.w, c = in.c;
  require(in.dtype != DType::i32 && in.h == 1 && args.height * args.width == t &&
              args.merged >= 0 && args.merged <= merged_tokens(args.height, args.width, 1.0),
          ErrorKind::invalid_argument, "[token_groups] ", args.merged, " of ", t,
          " tokens cannot join others in an image of ", args.width, "x", args.height);
  require_groups("token_groups", args.groups, in.n, t);
  std::vector<float> tokens(static_cast<size_t>(t * c));
  std::vector<Nearest> found(static_cast<size_t>(t));
  for (int64_t n = 0; n < in.n; ++n) {
    context.pool.parallel_for(args.height, [&](int64_t y, int) {
      for (int64_t i = y * args.width; i < (y + 1) * args.width; ++i) {
        float* token = tokens.data() + i * c;
        load(in, n, i, token);
        const float length = std::sqrt(dot(token, token, c));
        const float scale = length > 0.0f ? 1.0f / length : 0.0f;
        for (int64_t k = 0; k < c; ++k) token[k] *= scale;
      }
    });
    const Search search{args, tokens.data(), found.data()};
    context.pool.parallel_for(args.height, [&](int64_t y, int) { search.row(y); });
    number(args, n, found.data());
  }
}

void mean_tokens(const MeanTokensArgs& args, const KernelContext& context) {
  require_here(context);
  const View &in = args.in, &out = args.out;
  require(in.dtype == out.dtype && in.dtype != DType::i32 && in.n == out.n && in.c == out.c,
          ErrorKind::invalid_argument, "[mean_tokens] in and out must have the same images");
  require_groups("mean_tokens", args.groups, in.n, in.w);
  const int64_t blocks = (out.w + kBlock - 1) / kBlock;
  const auto floats = static_cast<size_t>((kBlock + 1) * in.c);
  const auto lock = context.pool.reserve_scratch(sizeof(float) * floats);
  context.pool.parallel_for(in.n * blocks, [&](int64_t task, int thread) {
    const int64_t n = task / blocks, first = task % blocks * kBlock;
    const int64_t count = std::min(kBlock, out.w - first);
    float* sums = reinterpret_cast<float*>(context.pool.scratch(thread));
    float* token = sums + kBlock * in.c;
    int64_t members[kBlock] = {};
    std::fill_n(sums, count * in.c, 0.0f);
    for (int64_t t = 0; t < in.w; ++t) {
      const int64_t group = *args.groups.at<const int32_t>(n, 0, t) - first;
      if (group < 0 || group >= count) continue;
      load(in, n, t, token);
      float* sum = sums + group * in.c;
      for (int64_t k = 0; k < in.c; ++k) sum[k] += token[k];
      ++members[group];
    }
    for (int64_t group = 0; group < count; ++group) {
      float* sum = sums + group * in.c;
      const auto size = static_cast<float>(std::max<int64_t>(members[group], 1));
      for (int64_t k = 0; k < in.c; ++k) sum[k] /= size;
      store(sum, out, n, first + group);
    }
  });
}

void spread_tokens(const SpreadTokensArgs& args, const KernelContext& context) {
  require_here(context);
  const View &in = args.in, &out = args.out;
  require(in.dtype == out.dtype && in.n == out.n && in.c == out.c, ErrorKind::invalid_argument,
          "[spread_tokens] in and out must have the same images");
  require_groups("spread_tokens", args.groups, out.n, out.w);
  for (int64_t n = 0; n < out.n; ++n) {
    for (int64_t t = 0; t < out.w; ++t) {
      const int32_t group = *args.groups.at<const int32_t>(n, 0, t);
      require(group >= 0 && group < in.w, ErrorKind::invalid_argument, "[spread_tokens] group ",
              group, " of token ", t, " is outside the ", in.w, " that there are");
    }
  }
  const auto bytes = static_cast<size_t>(in.c * dtype_size(in.dtype));
  const auto row = [](const View& v, int64_t n, int64_t t) {
    return static_cast<std::byte*>(v.data) +
           (n * v.stride_n + t * v.stride_w) * dtype_size(v.dtype);
  };
  context.pool.parallel_for(out.n * out.w, [&](int64_t task, int) {
    const int64_t n = task / out.w, t = task % out.w;
    std::memcpy(row(out, n, t), row(in, n, *args.groups.at<const int32_t>(n, 0, t)), bytes);
  });
}

}  // namespace sdcore
