// Checks arguments, cuts images into chunks by their shape alone, and combines the chunks' sums.
#include "kernels/norm/norm.h"

#include <algorithm>
#include <cmath>

#include "base/buffer.h"
#include "base/shape.h"
#include "kernels/norm/gpu.h"
#include "kernels/norm/kernel.h"
#include "kernels/registry.h"

namespace sdcore {
namespace {

using norm::Kernel;
using norm::Pixels;

constexpr std::array kRows = {
#define SDCORE_KERNEL(isa) &norm::kernel_##isa,
#include "kernels/norm/kernels.inc"
#undef SDCORE_KERNEL
};

std::string describe(const View& v) { return to_string({v.n, v.h, v.w, v.c}); }

void require_same_shape(const char* op, const View& in, const View& out) {
  require(in.dtype != DType::i32 && out.dtype != DType::i32, ErrorKind::invalid_argument, "[", op,
          "] needs floats, got ", dtype_name(in.dtype), " and ", dtype_name(out.dtype));
  require(in.n == out.n && in.h == out.h && in.w == out.w && in.c == out.c,
          ErrorKind::invalid_argument, "[", op, "] in ", describe(in), " and out ", describe(out),
          " must be the same shape");
}

template <class Data>
Pixels<Data> pixels_of(const View& v, int64_t image) {
  return {static_cast<std::byte*>(v.data) + image * v.stride_n * dtype_size(v.dtype), v.dtype, v.w,
          v.stride_h, v.stride_w};
}

// The cut of an image into chunks of pixels. It follows from the shape only, so that the order of
// every sum does too.
struct Chunks {
  int64_t pixels, length, count;

  explicit Chunks(const View& v) : pixels(v.h * v.w) {
    constexpr int64_t kElements = 65536, kLongest = 512;
    length = std::clamp<int64_t>(kElements / v.c, norm::kShiftPixels, kLongest) / 4 * 4;
    count = (pixels + length - 1) / length;
  }
  int64_t begin(int64_t chunk) const { return chunk * length; }
  int64_t end(int64_t chunk) const { return std::min(pixels, (chunk + 1) * length); }
};

// Count, mean and sum of squared deviations of a set of values; add joins two sets (Chan, Golub and
// LeVeque 1979).
struct Moments {
  double count = 0, mean = 0, square = 0;

  void add(const Moments& b) {
    if (b.count == 0) return;
    const double total = count + b.count, delta = b.mean - mean;
    mean += delta * b.count / total;
    square += b.square + delta * delta * count * b.count / total;
    count = total;
  }
};

struct Plan {
  Chunks chunks;
  Moments* partial;  // [n][chunks][groups]
  float* affine;     // [n][shift, scale, bias][c]
  size_t sums, bytes;

  Plan(const View& in, int64_t groups, void* workspace) : chunks(in) {
    sums = align_up(sizeof(Moments) * static_cast<size_t>(in.n * chunks.count * groups));
    auto* base = static_cast<std::byte*>(workspace);
    partial = reinterpret_cast<Moments*>(base);
    affine = reinterpret_cast<float*>(base + sums);
    bytes = sums + sizeof(float) * static_cast<size_t>(in.n * 3 * in.c);
  }
};

// Channel sums of one chunk to moments of its groups. Double, because a channel's mean and its
// distance from the group's are differences of large numbers.
void fold(const norm::ChunkSums& sums, int64_t pixels, int64_t per_group, int64_t groups,
          Moments* out) {
  const double count = static_cast<double>(pixels), inverse = 1.0 / count;
  const double inverse_group = 1.0 / static_cast<double>(per_group);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = g * per_group, last = first + per_group;
    double mean = 0, square = 0;
    for (int64_t i = first; i < last; ++i) mean += sums.shift[i] + sums.sum[i] * inverse;
    mean *= inverse_group;
    for (int64_t i = first; i < last; ++i) {
      const double sum = sums.sum[i], delta = sums.shift[i] + sum * inverse - mean;
      square += sums.square[i] - sum * sum * inverse + count * delta * delta;
    }
    out[g] = {count * static_cast<double>(per_group), mean, square};
  }
}

// Coefficients of one group. The mean goes in as a float and what the float left over.
void finish(const GroupNormArgs& args, const Moments& m, int64_t group, float* affine) {
  const int64_t c = args.in.c, per_group = c / args.groups;
  const double variance = std::max(m.square / m.count, 0.0);
  const double scale = 1.0 / std::sqrt(variance + args.eps);
  const float shift = static_cast<float>(m.mean);
  const double rest = m.mean - shift;
  for (int64_t i = group * per_group; i < (group + 1) * per_group; ++i) {
    const double weighted = args.weight ? scale * args.weight[i] : scale;
    affine[i] = shift;
    affine[c + i] = static_cast<float>(weighted);
    affine[2 * c + i] = static_cast<float>((args.bias ? args.bias[i] : 0.0) - rest * weighted);
  }
}

void require_groups(const char* op, const View& in, int64_t groups, const void* workspace) {
  require(groups > 0 && in.c % groups == 0, ErrorKind::invalid_argument, "[", op,
          "] channels must divide by groups, got ", in.c, " and ", groups);
  require(workspace != nullptr, ErrorKind::internal, "[", op, "] workspace is missing");
}

void require_moments(const char* op, const View& moments, const View& in, int64_t groups) {
  require(moments.dtype == DType::f32 && moments.n == in.n && moments.pixels() == in.n &&
              moments.c == 2 * groups,
          ErrorKind::invalid_argument, "[", op, "] moments must be [", in.n, ", ", 2 * groups,
          "] in f32, got ", describe(moments));
}

void require_per_image(const char* name, const View& v, const View& in) {
  require(v.c == 0 || (v.dtype != DType::i32 && v.n == in.n && v.pixels() == v.n && v.c == in.c),
          ErrorKind::invalid_argument, "[layer_norm] ", name, " must be one vector of ", in.c,
          " channels an image, got ", describe(v));
}

float number(const View& v, int64_t image, int64_t channel, float absent) {
  if (v.c == 0) return absent;
  if (v.dtype == DType::bf16) return to_float(v.at<const bf16>(image, 0, 0)[channel]);
  return v.at<const float>(image, 0, 0)[channel];
}

// Weight and bias of one image: (z w + b)(1 + scale) + shift = z w (1 + scale) + (b (1 + scale) +
// shift).
void modulate(const LayerNormArgs& args, int64_t image, float* to) {
  const int64_t c = args.in.c;
  for (int64_t i = 0; i < c; ++i) {
    const float factor = 1.0f + number(args.scale, image, i, 0.0f);
    to[i] = (args.weight ? args.weight[i] : 1.0f) * factor;
    to[c + i] = (args.bias ? args.bias[i] : 0.0f) * factor + number(args.shift, image, i, 0.0f);
  }
}

// Calls body(image, begin, end) on the pool for pieces that cover all pixels.
template <class Body>
void for_pieces(const View& in, ThreadPool& pool, Body body) {
  if (in.pixels() * in.c == 0) return;
  constexpr int64_t kTaskElements = 16384;
  const int64_t length = std::max<int64_t>(1, kTaskElements / in.c);
  const int64_t pixels = in.h * in.w;
  const int64_t pieces = (pixels + length - 1) / length;
  pool.parallel_for(in.n * pieces, [&](int64_t task, int) {
    const int64_t begin = task % pieces * length;
    body(task / pieces, begin, std::min(pixels, begin + length));
  });
}

// What each chunk of pixels adds up to, group by group.
void chunk_moments(const View& in, int64_t groups, const Plan& plan, const Kernel& kernel,
                   ThreadPool& pool) {
  const Chunks& chunks = plan.chunks;
  const int64_t c = in.c;
  const size_t row = align_up(sizeof(float) * static_cast<size_t>(c));
  const auto lock = pool.reserve_scratch(3 * row);
  pool.parallel_for(in.n * chunks.count, [&](int64_t task, int thread) {
    const int64_t begin = chunks.begin(task % chunks.count), end = chunks.end(task % chunks.count);
    std::byte* scratch = pool.scratch(thread);
    const auto channels = [&](size_t i) { return reinterpret_cast<float*>(scratch + i * row); };
    const norm::ChunkSums sums{channels(0), channels(1), channels(2)};
    kernel.chunk_sums(pixels_of<const void>(in, task / chunks.count), begin, end, c, sums);
    fold(sums, end - begin, c / groups, groups, plan.partial + task * groups);
  });
}

Moments whole_moments(const Plan& plan, int64_t image, int64_t group, int64_t groups) {
  Moments whole;
  for (int64_t i = 0; i < plan.chunks.count; ++i) {
    whole.add(plan.partial[(image * plan.chunks.count + i) * groups + group]);
  }
  return whole;
}

Moments moments_at(const View& given, int64_t image, int64_t group) {
  const float* m = given.at<const float>(image, 0, 0);
  return {1.0, m[group], m[given.c / 2 + group]};
}

}  // namespace

size_t group_norm_workspace(const GroupNormArgs& args, const KernelContext& context) {
  if (context.device) return norm::gpu_kernel(*context.device).workspace(args.in, args.groups);
  return args.in.c > 0 ? Plan(args.in, args.groups, nullptr).bytes : 0;
}

void group_norm(const GroupNormArgs& args, const KernelContext& context) {
  if (args.in.pixels() * args.in.c == 0) return;
  require_same_shape("group_norm", args.in, args.out);
  require_groups("group_norm", args.in, args.groups, args.workspace);
  const bool given = args.moments.c > 0;
  if (given) require_moments("group_norm", args.moments, args.in, args.groups);
  if (context.device) {
    return norm::gpu_kernel(*context.device).group_norm(args, *context.device);
  }
  const Kernel& kernel = pick(kRows, context.isa);
  const Plan plan(args.in, args.groups, args.workspace);
  const Chunks& chunks = plan.chunks;
  const int64_t c = args.in.c, groups = args.groups;

  if (!given) chunk_moments(args.in, groups, plan, kernel, context.pool);
  context.pool.parallel_for(args.in.n * groups, [&](int64_t task, int) {
    const int64_t image = task / groups, group = task % groups;
    const Moments m =
        given ? moments_at(args.moments, image, group) : whole_moments(plan, image, group, groups);
    finish(args, m, group, plan.affine + image * 3 * c);
  });
  context.pool.parallel_for(args.in.n * chunks.count, [&](int64_t task, int) {
    const int64_t image = task / chunks.count, chunk = task % chunks.count;
    const float* affine = plan.affine + image * 3 * c;
    kernel.affine(pixels_of<const void>(args.in, image), pixels_of<void>(args.out, image),
                  chunks.begin(chunk), chunks.end(chunk), c, {affine, affine + c, affine + 2 * c},
                  args.activation);
  });
}

size_t group_moments_workspace(const GroupMomentsArgs& args, const KernelContext& context) {
  if (context.device) return norm::gpu_kernel(*context.device).workspace(args.in, args.groups);
  return args.in.c > 0 ? Plan(args.in, args.groups, nullptr).sums : 0;
}

void group_moments(const GroupMomentsArgs& args, const KernelContext& context) {
  if (args.in.pixels() * args.in.c == 0) return;
  require_groups("group_moments", args.in, args.groups, args.workspace);
  require_moments("group_moments", args.out, args.in, args.groups);
  if (context.device) {
    return norm::gpu_kernel(*context.device).group_moments(args, *context.device);
  }
  const Plan plan(args.in, args.groups, args.workspace);
  const int64_t groups = args.groups;
  chunk_moments(args.in, groups, plan, pick(kRows, context.isa), context.pool);
  for (int64_t task = 0; task < args.in.n * groups; ++task) {
    const int64_t image = task / groups, group = task % groups;
    const Moments m = whole_moments(plan, image, group, groups);
    float* out = args.out.at<float>(image, 0, 0);
    out[group] = static_cast<float>(m.mean);
    out[groups + group] = static_cast<float>(m.square / m.count);
  }
}

size_t layer_norm_workspace(const LayerNormArgs& args, const KernelContext& context) {
  const bool modulated = !context.device && (args.scale.c || args.shift.c);
  return modulated ? sizeof(float) * static_cast<size_t>(2 * args.in.n * args.in.c) : 0;
}

void layer_norm(const LayerNormArgs& args, const KernelContext& context) {
  require_same_shape("layer_norm", args.in, args.out);
  require_per_image("scale", args.scale, args.in);
  require_per_image("shift", args.shift, args.in);
  if (args.in.pixels() * args.in.c == 0) return;
  if (context.device) {
    return norm::gpu_kernel(*context.device).layer_norm(args, *context.device);
  }
  const Kernel& kernel = pick(kRows, context.isa);
  const int64_t c = args.in.c;
  float* merged = nullptr;  // weight and bias of each image
  if (layer_norm_workspace(args, context) > 0) {
    require(args.workspace != nullptr, ErrorKind::internal, "[layer_norm] workspace is missing");
    merged = static_cast<float*>(args.workspace);
    context.pool.parallel_for(
        args.in.n, [&](int64_t image, int) { modulate(args, image, merged + 2 * image * c); });
  }
  for_pieces(args.in, context.pool, [&](int64_t image, int64_t begin, int64_t end) {
    const float* own = merged ? merged + 2 * image * c : nullptr;
    kernel.layer_norm(pixels_of<const void>(args.in, image), pixels_of<void>(args.out, image),
                      begin, end, c,
                      {own ? own : args.weight, own ? own + c : args.bias, args.eps});
  });
}

void rms_norm(const RmsNormArgs& args, const KernelContext& context) {
  require_same_shape("rms_norm", args.in, args.out);
  require(args.size > 0 && args.in.c % args.size == 0 && args.weight != nullptr,
          ErrorKind::invalid_argument, "[rms_norm] channels must divide by the weight's size, got ",
          args.in.c, " and ", args.size);
  if (context.device) {
    return norm::gpu_kernel(*context.device).rms_norm(args, *context.device);
  }
  const Kernel& kernel = pick(kRows, context.isa);
  for_pieces(args.in, context.pool, [&](int64_t image, int64_t begin, int64_t end) {
    kernel.rms_norm(pixels_of<const void>(args.in, image), pixels_of<void>(args.out, image), begin,
                    end, args.in.c, {args.weight, args.size, args.eps});
  });
}

std::vector<std::string> norm_variants() { return row_names(kRows); }

}  // namespace sdcore
