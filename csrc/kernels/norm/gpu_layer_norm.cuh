// Layer norms and root mean square norms: some lanes of a warp take the channels of a pixel, or a
// run of them, and keep them in registers.
#pragma once

#include "kernels/norm/gpu_common.cuh"

namespace sdcore::norm {
namespace {

// Tuning points, from an H100 with its 132 multiprocessors: vectors of a lane that are a reason to
// take more lanes, and the blocks that smaller ones are to make of too few.
constexpr int kManyVectors = 5;
constexpr int64_t kEnoughBlocks = 264;

// How lanes share runs: 2^log of them take one of so many channels.
struct Share {
  uint32_t count, each;  // runs, and runs of a pixel
  int size, log;

  __device__ int lanes() const { return 1 << log; }
};

// A run of adjacent channels that is normed, and the lane of those that share it.
struct Run {
  Pixel pixel;
  int64_t from, to;  // elements of what is read and written
  int lane;
  bool present;

  __device__ Run(const View& in, const View& out, const Share& share) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    lane = static_cast<int>(thread) & (share.lanes() - 1);
    uint32_t index = thread >> share.log, part = 0;
    present = index < share.count;
    if (!present) index = share.count - 1;  // read without a branch, and not written
    if (share.each != 1) {
      part = index % share.each;
      index /= share.each;
    }
    pixel = {0, 0, index};
    if (in.n * in.h != 1) {
      pixel = pixel_at(index, static_cast<uint32_t>(in.h), static_cast<uint32_t>(in.w));
    }
    const int64_t channel = static_cast<int64_t>(part) * share.size;
    from = element(in, pixel) + channel;
    to = element(out, pixel) + channel;
  }
};

// A lane's vectors of a run: every so many-th, so that lanes read what is adjacent. The last ones
// may be beyond the run; in their place the run's last vector is read, and nothing written.
template <class T, int n>
struct RunOfLane {
  Packed<T> at[n];
  int lane, lanes, vectors;

  __device__ RunOfLane(const View& in, const Run& run, const Share& share)
      : lane(run.lane), lanes(share.lanes()), vectors(share.size / kVector) {
    const T* from = static_cast<const T*>(in.data) + run.from;
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) at[i] = fetch(from + channel(i));
  }
  __device__ bool has(int i) const { return lane + i * lanes < vectors; }
  __device__ int channel(int i) const {
    return (has(i) ? lane + i * lanes : vectors - 1) * kVector;
  }

  // The sum over the run of what f makes of a number.
  template <class F>
  __device__ float sum(const F& f) const {
    float total = 0.0f;
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) {
      const auto x = unpack(at[i]);
      float part = 0.0f;
      SDCORE_UNROLL
      for (int k = 0; k < kVector; ++k) part += f(x.v[k]);
      total += has(i) ? part : 0.0f;
    }
    return sum_of_lanes(total, lanes);
  }
  // Makes f(values, i) of them and stores it, many at once: nothing can be read ahead of a
  // store that may be to the same place, and what is read ahead takes registers.
  template <class F>
  __device__ void store_all(const View& out, const Run& run, const F& f) {
    constexpr int kOnce = n > 5 ? n / 2 : n;
    T* to = static_cast<T*>(out.data) + run.to;
    SDCORE_UNROLL
    for (int first = 0; first < n; first += kOnce) {
      SDCORE_UNROLL
      for (int i = first; i < first + kOnce; ++i) at[i] = packed<T>(f(unpack(at[i]), i));
      SDCORE_UNROLL
      for (int i = first; i < first + kOnce; ++i) {
        if (run.present && has(i)) *reinterpret_cast<Packed<T>*>(to + channel(i)) = at[i];
      }
    }
  }
};

template <int n>
__device__ __forceinline__ void multiply_add(Values<n>& x, const Values<n>& factor,
                                             const Values<n>& offset) {
  SDCORE_UNROLL
  for (int k = 0; k < n; ++k) x.v[k] = x.v[k] * factor.v[k] + offset.v[k];
}
template <int n>
__device__ __forceinline__ void add(Values<n>& x, float number) {
  SDCORE_UNROLL
  for (int k = 0; k < n; ++k) x.v[k] += number;
}

// What follows a layer norm: weight and bias, or scale and shift in the type of activations.
enum class After : uint8_t { affine, modulation };

// What a vector is multiplied by and what is added then.
template <class T, After after>
struct Pair;
template <class T>
struct Pair<T, After::affine> {
  Packed<float> weight, bias;

  __device__ static Pair at(const LayerNormArgs& args, int64_t, int channel) {
    return {fetch(args.weight + channel), fetch(args.bias + channel)};
  }
  __device__ void apply(Values<kVector>& x) const { multiply_add(x, unpack(weight), unpack(bias)); }
};
template <class T>
struct Pair<T, After::modulation> {
  Packed<T> scale, shift;

  __device__ static Pair at(const LayerNormArgs& args, int64_t image, int channel) {
    const auto number = [&](const View& v) {
      return fetch(static_cast<const T*>(v.data) + image * v.stride_n + channel);
    };
    return {number(args.scale), number(args.shift)};
  }
  __device__ void apply(Values<kVector>& x) const {
    auto factor = unpack(scale);
    add(factor, 1.0f);
    multiply_add(x, factor, unpack(shift));
  }
};

// Tuning point: whether what follows is read with the numbers, so that it is there when they are;
// it takes registers.
template <class T, int n, After after>
constexpr bool kEarly = sizeof(T) == 2 && n <= (after == After::affine ? 2 : 5);

template <class T, int n, After after>
__global__ void __launch_bounds__(kThreads, (kEarly<T, n, after> ? 2 : 0))
    layer_norm_kernel(LayerNormArgs args, Share share) {
  constexpr bool early = kEarly<T, n, after>;
  const Run run(args.in, args.out, share);
  RunOfLane<T, n> x(args.in, run, share);
  const auto pair_at = [&](int i) { return Pair<T, after>::at(args, run.pixel.n, x.channel(i)); };
  Pair<T, after> pairs[early ? n : 1];
  SDCORE_UNROLL
  for (int i = 0; early && i < n; ++i) pairs[i] = pair_at(i);
  const auto c = static_cast<float>(share.size);
  const float mean = x.sum([](float value) { return value; }) / c;
  const float squares = x.sum([&](float value) { return (value - mean) * (value - mean); });
  const float inverse = 1.0f / sqrtf(squares / c + args.eps);
  x.store_all(args.out, run, [&](Values<kVector> y, int i) {
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) y.v[k] = (y.v[k] - mean) * inverse;
    (early ? pairs[i] : pair_at(i)).apply(y);
    return y;
  });
}

template <class T, int n>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNormArgs args, Share share) {
  const Run run(args.in, args.out, share);
  RunOfLane<T, n> x(args.in, run, share);
  const float squares = x.sum([](float value) { return value * value; });
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(share.size) + args.eps);
  x.store_all(args.out, run, [&](Values<kVector> y, int i) {
    const auto weight = load<kVector>(args.weight + x.channel(i));
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) y.v[k] *= inverse * weight.v[k];
    return y;
  });
}

// What follows a layer norm, whatever of it there is.
template <int n>
__device__ __forceinline__ void finish(const LayerNormArgs& args, int64_t image, int channel,
                                       Values<n>& x) {
  Values<n> factor = {}, offset = {};
  const auto number = [&](const View& v) {
    return load<n>(v.data, v.dtype, image * v.stride_n + channel);
  };
  if (args.weight) factor = load<n>(args.weight + channel);
  if (!args.weight) add(factor, 1.0f);
  if (args.bias) offset = load<n>(args.bias + channel);
  multiply_add(x, factor, offset);
  if (!args.scale.c && !args.shift.c) return;
  factor = offset = {};
  if (args.scale.c) factor = number(args.scale);
  add(factor, 1.0f);
  if (args.shift.c) offset = number(args.shift);
  multiply_add(x, factor, offset);
}

// By a warp, reading again what it needs again: for what registers do not hold, or vectors do not
// fit, or is of two types.
template <int n>
__global__ void __launch_bounds__(kThreads)
    plain_layer_norm_kernel(LayerNormArgs args, Share share) {
  const View &in = args.in, &out = args.out;
  const Run run(in, out, share);
  const auto for_vectors = [&](auto body) {
    for (int i = run.lane * n; i < share.size; i += 32 * n) {
      auto x = load<n>(in.data, in.dtype, run.from + i);
      body(x, i);
    }
  };
  float sum = 0.0f, squares = 0.0f;
  for_vectors([&](const Values<n>& x, int) {
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) sum += x.v[k];
  });
  const auto c = static_cast<float>(share.size);
  const float mean = sum_of_warp(sum) / c;
  for_vectors([&](const Values<n>& x, int) {
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) squares += (x.v[k] - mean) * (x.v[k] - mean);
  });
  const float inverse = 1.0f / sqrtf(sum_of_warp(squares) / c + args.eps);
  if (!run.present) return;
  for_vectors([&](Values<n>& x, int i) {
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) x.v[k] = (x.v[k] - mean) * inverse;
    finish<n>(args, run.pixel.n, i, x);
    store<n>(out.data, out.dtype, run.to + i, x);
  });
}

template <int n>
__global__ void __launch_bounds__(kThreads) plain_rms_norm_kernel(RmsNormArgs args, Share share) {
  const View &in = args.in, &out = args.out;
  const Run run(in, out, share);
  float squares = 0.0f;
  for (int i = run.lane * n; i < share.size; i += 32 * n) {
    const auto x = load<n>(in.data, in.dtype, run.from + i);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) squares += x.v[k] * x.v[k];
  }
  squares = sum_of_warp(squares);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(share.size) + args.eps);
  if (!run.present) return;
  for (int i = run.lane * n; i < share.size; i += 32 * n) {
    auto x = load<n>(in.data, in.dtype, run.from + i);
    const auto weight = load<n>(args.weight + i);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) x.v[k] *= inverse * weight.v[k];
    store<n>(out.data, out.dtype, run.to + i, x);
  }
}

// log2 of the lanes of a run: few, so that each has some vectors under way.
inline int log_lanes_for(int64_t size) {
  int log = 3;
  while (log < 5 && size / kVector > kManyVectors << log) ++log;
  return log;
}
// Whether a warp's registers hold a run.
inline bool holds(int64_t size, DType dtype) {
  return size <= 32 * kVector * (dtype_size(dtype) == 2 ? 16 : 10);
}

// Of a block: as many as leave every multiprocessor some blocks.
inline uint32_t threads_for(int64_t lanes) {
  int64_t threads = kThreads;
  while (threads > 64 && lanes / threads < kEnoughBlocks) threads /= 2;
  return static_cast<uint32_t>(threads);
}

template <class Args>
void launch_runs(gpu::Device& device, void (*kernel)(Args, Share), const Args& args,
                 const Share& share) {
  const int64_t lanes = int64_t{share.count} << share.log;
  const uint32_t threads = threads_for(lanes);
  launch(device, kernel, static_cast<uint32_t>(blocks_of(lanes, threads)), threads, 0, args, share);
}

inline Share share_out(const View& in, int64_t size, int log) {
  const int64_t each = in.c / size, count = in.pixels() * each;
  require(count < INT32_MAX / 32, ErrorKind::invalid_argument, "[norm] ", count,
          " vectors are too many for one kernel");
  return {static_cast<uint32_t>(count), static_cast<uint32_t>(each), static_cast<int>(size), log};
}

// Calls run(T{}, constant n) with the fewest vectors a lane that are enough.
template <class Body>
void with_vectors(DType dtype, const Share& share, const Body& run) {
  const int needed = static_cast<int>(blocks_of(share.size / kVector, 1 << share.log));
  with_type(dtype, [&](auto type) {
    if (needed <= 2) return run(type, std::integral_constant<int, 2>{});
    if (needed <= 5) return run(type, std::integral_constant<int, 5>{});
    if (needed <= 10) return run(type, std::integral_constant<int, 10>{});
    if constexpr (sizeof(type) == 2) run(type, std::integral_constant<int, 16>{});
  });
}

// All images as one row of pixels where memory has them so.
inline View as_one_row(View v) {
  v = as_row(v);
  if (v.h != 1 || (v.n != 1 && v.stride_n != v.w * v.stride_w)) return v;
  v.w *= v.n;
  v.n = 1;
  return v;
}
inline void join_rows(View& in, View& out) {
  const View from = as_one_row(in), to = as_one_row(out);
  if (from.n * from.h != 1 || to.n * to.h != 1) return;
  in = from;
  out = to;
}

inline void run_plain(const LayerNormArgs& args, bool vectors, gpu::Device& device) {
  const Share share = share_out(args.in, args.in.c, 5);
  launch_runs(device, vectors ? plain_layer_norm_kernel<kVector> : plain_layer_norm_kernel<1>, args,
              share);
}

inline void layer_norm(const LayerNormArgs& given, gpu::Device& device) {
  LayerNormArgs args = given;
  const bool moved = args.scale.c || args.shift.c;
  if (!moved) join_rows(args.in, args.out);
  const auto fits = [](const View& v) { return !v.c || is_vectorized(v); };
  const bool vectors = is_vectorized(args.in) && is_vectorized(args.out) && fits(args.scale) &&
                       fits(args.shift) && is_aligned(args.weight) && is_aligned(args.bias);
  const DType dtype = args.in.dtype;
  const bool affine = !moved && args.weight && args.bias;
  const bool modulation = args.scale.c && args.scale.dtype == dtype && args.shift.c &&
                          args.shift.dtype == dtype && !args.weight && !args.bias;
  if (!vectors || !holds(args.in.c, dtype) || dtype != args.out.dtype || !(affine || modulation)) {
    return run_plain(args, vectors, device);
  }
  const Share share = share_out(args.in, args.in.c, log_lanes_for(args.in.c));
  with_vectors(dtype, share, [&](auto type, auto n) {
    using T = decltype(type);
    launch_runs(device,
                affine ? layer_norm_kernel<T, n, After::affine>
                       : layer_norm_kernel<T, n, After::modulation>,
                args, share);
  });
}

inline void rms_norm(const RmsNormArgs& given, gpu::Device& device) {
  RmsNormArgs args = given;
  join_rows(args.in, args.out);
  const bool vectors = args.size % kVector == 0 && is_vectorized(args.in) &&
                       is_vectorized(args.out) && is_aligned(args.weight);
  if (!vectors || !holds(args.size, args.in.dtype) || args.in.dtype != args.out.dtype) {
    const Share share = share_out(args.in, args.size, 5);
    return launch_runs(device, vectors ? plain_rms_norm_kernel<kVector> : plain_rms_norm_kernel<1>,
                       args, share);
  }
  const Share share = share_out(args.in, args.size, log_lanes_for(args.size));
  with_vectors(args.in.dtype, share, [&](auto type, auto n) {
    launch_runs(device, rms_norm_kernel<decltype(type), n>, args, share);
  });
}

}  // namespace
}  // namespace sdcore::norm
