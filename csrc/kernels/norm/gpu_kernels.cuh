// Group norms in two passes over the image: sums of chunks of it, then all else. Layer and root
// mean square norms by a warp a pixel.
#pragma once

#include "kernels/gpu.cuh"
#include "kernels/norm/gpu.h"

namespace sdcore::norm {
namespace {

constexpr int kThreads = 256;

// Mean of some numbers and the sum of squared distances from it.
struct Moments {
  float count = 0.0f, mean = 0.0f, squares = 0.0f;

  // Chan, Golub and LeVeque 1979.
  __device__ void add(const Moments& other) {
    if (other.count == 0.0f) return;
    const float total = count + other.count, distance = other.mean - mean;
    mean += distance * (other.count / total);
    squares += other.squares + distance * distance * (count * other.count / total);
    count = total;
  }
};

// An image is cut into chunks that depend on its size alone. Tuning points: how long and how many.
struct Chunks {
  int64_t length, count;

  explicit Chunks(const View& v)
      : length(std::max<int64_t>(16, blocks_of(v.h * v.w, 64))),
        count(blocks_of(v.h * v.w, length)) {}
};

// For each group of a chunk its moments. A thread sums a vector of channels over every so many
// pixels, from which it takes away what the chunk's first pixel has there: what is left is small
// where the mean is large.
template <int n>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(View in, int groups, Moments* moments, int length) {
  auto* shift = reinterpret_cast<float*>(gpu::shared_memory());
  const int c = static_cast<int>(in.c), vectors = c / n, thread = static_cast<int>(threadIdx.x);
  float *sum = shift + c, *square = sum + c, *scratch = square + c;
  const int pixels = static_cast<int>(in.h * in.w);
  const int begin = static_cast<int>(blockIdx.x) * length;
  const int end = begin + length < pixels ? begin + length : pixels;
  const int columns = vectors < kThreads ? vectors : kThreads, rows = kThreads / columns;
  const int column = thread % columns, row = thread / columns;
  const auto at = [&](int pixel, int channel) {
    const int w = static_cast<int>(in.w);
    return blockIdx.y * in.stride_n + pixel / w * in.stride_h + pixel % w * in.stride_w + channel;
  };

  for (int first = 0; first < vectors; first += columns) {
    const int channel = (first + column) * n;
    const bool active = row < rows && first + column < vectors;
    if (active) {
      const auto origin = load<n>(in.data, in.dtype, at(begin, channel));
      float sums[n] = {}, squares[n] = {};
      for (int pixel = begin + row; pixel < end; pixel += rows) {
        const auto x = load<n>(in.data, in.dtype, at(pixel, channel));
        SDCORE_UNROLL
        for (int i = 0; i < n; ++i) {
          const float d = x.v[i] - origin.v[i];
          sums[i] += d;
          squares[i] += d * d;
        }
      }
      SDCORE_UNROLL
      for (int i = 0; i < n; ++i) {
        scratch[(row * columns + column) * 2 * n + 2 * i] = sums[i];
        scratch[(row * columns + column) * 2 * n + 2 * i + 1] = squares[i];
        if (row == 0) shift[channel + i] = origin.v[i];
      }
    }
    gpu::wait_for_block();
    if (active && row == 0) {
      SDCORE_UNROLL
      for (int i = 0; i < n; ++i) {
        float total = 0.0f, total_square = 0.0f;
        for (int r = 0; r < rows; ++r) {
          total += scratch[(r * columns + column) * 2 * n + 2 * i];
          total_square += scratch[(r * columns + column) * 2 * n + 2 * i + 1];
        }
        sum[channel + i] = total;
        square[channel + i] = total_square;
      }
    }
    gpu::wait_for_block();
  }

  const int each = c / groups;
  const auto count = static_cast<float>(end - begin);
  for (int group = thread; group < groups; group += kThreads) {
    Moments whole;
    for (int i = group * each; i < (group + 1) * each; ++i) {
      const float mean = sum[i] / count;
      whole.add({count, shift[i] + mean, fmaxf(square[i] - sum[i] * mean, 0.0f)});
    }
    moments[(blockIdx.y * gridDim.x + blockIdx.x) * static_cast<uint32_t>(groups) +
            static_cast<uint32_t>(group)] = whole;
  }
}

// The moments of a group of an image, all chunks together.
__device__ __forceinline__ Moments whole_moments(const Moments* moments, int chunks, int groups,
                                                 uint32_t image, int group) {
  Moments whole;
  for (int i = 0; i < chunks; ++i) {
    whole.add(moments[(image * static_cast<uint32_t>(chunks) + static_cast<uint32_t>(i)) *
                          static_cast<uint32_t>(groups) +
                      static_cast<uint32_t>(group)]);
  }
  return whole;
}

template <int n>
__global__ void __launch_bounds__(kThreads)
    group_norm_kernel(GroupNormArgs args, const Moments* moments, int chunks, int length) {
  const View &in = args.in, &out = args.out;
  auto* mean = reinterpret_cast<float*>(gpu::shared_memory());
  const int c = static_cast<int>(in.c), vectors = c / n, thread = static_cast<int>(threadIdx.x);
  float *scale = mean + c, *bias = scale + c;
  const int each = c / args.groups;
  for (int group = thread; group < args.groups; group += kThreads) {
    Moments whole;
    if (args.moments.c) {
      const auto* given =
          static_cast<const float*>(args.moments.data) + blockIdx.y * args.moments.stride_n;
      whole = {1.0f, given[group], given[args.groups + group]};
    } else {
      whole = whole_moments(moments, chunks, args.groups, blockIdx.y, group);
    }
    const float inverse = 1.0f / sqrtf(whole.squares / whole.count + args.eps);
    for (int i = group * each; i < (group + 1) * each; ++i) {
      mean[i] = whole.mean;
      scale[i] = args.weight ? inverse * args.weight[i] : inverse;
      bias[i] = args.bias ? args.bias[i] : 0.0f;
    }
  }
  gpu::wait_for_block();
  const int pixels = static_cast<int>(in.h * in.w);
  const int begin = static_cast<int>(blockIdx.x) * length;
  const int end = begin + length < pixels ? begin + length : pixels;
  for (int i = begin * vectors + thread; i < end * vectors; i += kThreads) {
    const int pixel = i / vectors, channel = i % vectors * n;
    const Pixel p = {blockIdx.y, pixel / static_cast<int>(in.w), pixel % static_cast<int>(in.w)};
    auto x = load<n>(in.data, in.dtype, element(in, p) + channel);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) {
      x.v[k] = (x.v[k] - mean[channel + k]) * scale[channel + k] + bias[channel + k];
    }
    activate(args.activation, x);
    store<n>(out.data, out.dtype, element(out, p) + channel, x);
  }
}

size_t workspace(const View& in, int groups) {
  return sizeof(Moments) * static_cast<size_t>(in.n * Chunks(in).count * groups);
}

gpu::dim3 grid_of(const View& in) {
  require(in.h * in.w * in.c < INT32_MAX, ErrorKind::invalid_argument, "[group_norm] an image of ",
          in.h, " x ", in.w, " x ", in.c, " numbers is too large for one kernel");
  return {static_cast<uint32_t>(Chunks(in).count), static_cast<uint32_t>(in.n)};
}

template <int n>
void run_moments(const View& in, int groups, Moments* moments, gpu::Device& device) {
  const size_t shared = (3 * static_cast<size_t>(in.c) + size_t{kThreads} * 2 * n) * sizeof(float);
  launch(device, moments_kernel<n>, grid_of(in), kThreads, shared, in, groups, moments,
         static_cast<int>(Chunks(in).length));
}

template <int n>
void run_group_norm(const GroupNormArgs& args, gpu::Device& device) {
  auto* moments = static_cast<Moments*>(args.workspace);
  if (!args.moments.c) run_moments<n>(args.in, args.groups, moments, device);
  const Chunks chunks(args.in);
  launch(device, group_norm_kernel<n>, grid_of(args.in), kThreads,
         3 * static_cast<size_t>(args.in.c) * sizeof(float), args, moments,
         static_cast<int>(chunks.count), static_cast<int>(chunks.length));
}

void group_norm(const GroupNormArgs& args, gpu::Device& device) {
  if (is_vectorized(args.in) && is_vectorized(args.out)) {
    return run_group_norm<kVector>(args, device);
  }
  run_group_norm<1>(args, device);
}

__global__ void __launch_bounds__(kThreads)
    store_moments_kernel(View out, int groups, const Moments* moments, int chunks) {
  auto* to = static_cast<float*>(out.data) + blockIdx.x * out.stride_n;
  for (int group = static_cast<int>(threadIdx.x); group < groups; group += kThreads) {
    const Moments whole = whole_moments(moments, chunks, groups, blockIdx.x, group);
    to[group] = whole.mean;
    to[groups + group] = whole.squares / whole.count;
  }
}

void group_moments(const GroupMomentsArgs& args, gpu::Device& device) {
  auto* moments = static_cast<Moments*>(args.workspace);
  if (is_vectorized(args.in)) {
    run_moments<kVector>(args.in, args.groups, moments, device);
  } else {
    run_moments<1>(args.in, args.groups, moments, device);
  }
  launch(device, store_moments_kernel, static_cast<uint32_t>(args.in.n), kThreads, 0, args.out,
         args.groups, moments, static_cast<int>(Chunks(args.in).count));
}

__device__ __forceinline__ float sum_of_warp(float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += gpu::shuffle_xor(x, mask);
  return x;
}

// The pixel, or part of one, that is this warp's, and whether there is one.
__device__ __forceinline__ uint32_t warp_index() {
  return blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
}

template <int n>
__global__ void __launch_bounds__(kThreads) layer_norm_kernel(LayerNormArgs args, uint32_t pixels) {
  const View &in = args.in, &out = args.out;
  const uint32_t index = warp_index();
  if (index >= pixels) return;  // a whole warp
  const Pixel p = pixel_at(index, static_cast<uint32_t>(in.h), static_cast<uint32_t>(in.w));
  const int64_t from = element(in, p), to = element(out, p);
  const int c = static_cast<int>(in.c), first = static_cast<int>(threadIdx.x % 32) * n;
  float sum = 0.0f, squares = 0.0f;
  for (int i = first; i < c; i += 32 * n) {
    const auto x = load<n>(in.data, in.dtype, from + i);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) sum += x.v[k];
  }
  const float mean = sum_of_warp(sum) / static_cast<float>(c);
  for (int i = first; i < c; i += 32 * n) {
    const auto x = load<n>(in.data, in.dtype, from + i);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) squares += (x.v[k] - mean) * (x.v[k] - mean);
  }
  const float inverse = 1.0f / sqrtf(sum_of_warp(squares) / static_cast<float>(c) + args.eps);
  for (int i = first; i < c; i += 32 * n) {
    auto x = load<n>(in.data, in.dtype, from + i);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) {
      float y = (x.v[k] - mean) * inverse;
      if (args.weight) y *= args.weight[i + k];
      if (args.bias) y += args.bias[i + k];
      if (args.scale.c) {
        const int64_t at = p.n * args.scale.stride_n + i + k;
        y *= 1.0f + load<1>(args.scale.data, args.scale.dtype, at).v[0];
      }
      if (args.shift.c) {
        const int64_t at = p.n * args.shift.stride_n + i + k;
        y += load<1>(args.shift.data, args.shift.dtype, at).v[0];
      }
      x.v[k] = y;
    }
    store<n>(out.data, out.dtype, to + i, x);
  }
}

template <int n>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNormArgs args, uint32_t runs) {
  const View &in = args.in, &out = args.out;
  const uint32_t index = warp_index(), each = static_cast<uint32_t>(in.c / args.size);
  if (index >= runs) return;
  const Pixel p = pixel_at(index / each, static_cast<uint32_t>(in.h), static_cast<uint32_t>(in.w));
  const int64_t channel = index % each * args.size;
  const int64_t from = element(in, p) + channel, to = element(out, p) + channel;
  const int size = static_cast<int>(args.size), first = static_cast<int>(threadIdx.x % 32) * n;
  float squares = 0.0f;
  for (int i = first; i < size; i += 32 * n) {
    const auto x = load<n>(in.data, in.dtype, from + i);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) squares += x.v[k] * x.v[k];
  }
  const float inverse = 1.0f / sqrtf(sum_of_warp(squares) / static_cast<float>(size) + args.eps);
  for (int i = first; i < size; i += 32 * n) {
    auto x = load<n>(in.data, in.dtype, from + i);
    SDCORE_UNROLL
    for (int k = 0; k < n; ++k) x.v[k] *= inverse * args.weight[i + k];
    store<n>(out.data, out.dtype, to + i, x);
  }
}

// A warp for each of so many.
template <class Args>
void launch_warps(gpu::Device& device, void (*kernel)(Args, uint32_t), const Args& args,
                  int64_t count) {
  require(count < INT32_MAX, ErrorKind::invalid_argument, "[norm] ", count,
          " vectors are too many for one kernel");
  launch(device, kernel, static_cast<uint32_t>(blocks_of(count, kThreads / 32)), kThreads, 0, args,
         static_cast<uint32_t>(count));
}

void layer_norm(const LayerNormArgs& args, gpu::Device& device) {
  const bool whole = is_vectorized(args.in) && is_vectorized(args.out);
  launch_warps(device, whole ? layer_norm_kernel<kVector> : layer_norm_kernel<1>, args,
               args.in.pixels());
}

void rms_norm(const RmsNormArgs& args, gpu::Device& device) {
  const bool whole = is_vectorized(args.in) && is_vectorized(args.out) && args.size % kVector == 0;
  launch_warps(device, whole ? rms_norm_kernel<kVector> : rms_norm_kernel<1>, args,
               args.in.pixels() * (args.in.c / args.size));
}

constexpr GpuKernel kGpuKernel = {gpu::kBackend, workspace,  group_moments,
                                  group_norm,    layer_norm, rms_norm};

}  // namespace
}  // namespace sdcore::norm
