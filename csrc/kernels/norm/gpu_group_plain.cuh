// Group norms number by number, for what vectors do not fit.
#pragma once

#include "kernels/norm/gpu_group_cut.cuh"

namespace sdcore::norm {
namespace {

// The sum over the block, in all of its threads.
__device__ __forceinline__ float sum_of_block(float x) {
  auto* parts = reinterpret_cast<float*>(gpu::shared_memory());
  x = sum_of_warp(x);
  gpu::wait_for_block();  // until all have read the sum before
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  gpu::wait_for_block();
  float total = 0.0f;
  for (int i = 0; i < kWarps; ++i) total += parts[i];
  return total;
}

// Calls body(pixel, channel) for a thread's numbers of a group of a chunk.
template <class Body>
__device__ __forceinline__ void for_numbers(const Cut& cut, Body body) {
  const int begin = static_cast<int>(blockIdx.y) * cut.tile;
  const int count = pixels_of(cut, static_cast<int>(blockIdx.y)) * cut.channels;
  const int first = static_cast<int>(blockIdx.x) * cut.channels;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    body(begin + i / cut.channels, first + i % cut.channels);
  }
}

// The first channel of a pixel of an image.
__device__ __forceinline__ int64_t place_of(const View& v, int64_t image, int pixel) {
  const int w = static_cast<int>(v.w);
  return element(v, {image, pixel / w, pixel % w});
}

__global__ void __launch_bounds__(kThreads) plain_moments_kernel(View in, Cut cut, Moments* all) {
  const auto at = [&](int pixel, int channel) {
    return load<1>(in.data, in.dtype, place_of(in, blockIdx.z, pixel) + channel).v[0];
  };
  const int chunk = static_cast<int>(blockIdx.y);
  float sum = 0.0f, squares = 0.0f;
  for_numbers(cut, [&](int pixel, int channel) { sum += at(pixel, channel); });
  const float count = static_cast<float>(pixels_of(cut, chunk) * cut.channels);
  const float mean = sum_of_block(sum) / count;
  for_numbers(cut, [&](int pixel, int channel) {
    const float distance = at(pixel, channel) - mean;
    squares += distance * distance;
  });
  squares = sum_of_block(squares);
  if (threadIdx.x == 0) moments_of(cut, all, blockIdx.z, blockIdx.x, 0)[chunk] = {mean, squares};
}

__global__ void __launch_bounds__(kThreads)
    plain_group_norm_kernel(GroupNormArgs args, Cut cut, Moments* all) {
  const View &in = args.in, &out = args.out;
  const Moments m = mean_and_variance(args, cut, all, 0);
  const float inverse = inverse_deviation(m.squares, args.eps);
  for_numbers(cut, [&](int pixel, int channel) {
    const int64_t from = place_of(in, blockIdx.z, pixel) + channel;
    const int64_t to = place_of(out, blockIdx.z, pixel) + channel;
    float x = (load<1>(in.data, in.dtype, from).v[0] - m.mean) * inverse;
    if (args.weight) x *= args.weight[channel];
    if (args.bias) x += args.bias[channel];
    store<1>(out.data, out.dtype, to, {{activate(args.activation, x)}});
  });
}

inline void run_plain_moments(const View& in, const Cut& cut, Moments* moments,
                              gpu::Device& device) {
  launch(device, plain_moments_kernel, grid_of(cut, cut.chunks, in.n), kThreads,
         kWarps * sizeof(float), in, cut, moments);
}

inline void run_plain(const GroupNormArgs& args, gpu::Device& device) {
  auto* moments = static_cast<Moments*>(args.workspace);
  const Cut cut = cut_into_groups(args.in, args.groups);
  if (!args.moments.c) run_plain_moments(args.in, cut, moments, device);
  launch(device, plain_group_norm_kernel, grid_of(cut, cut.chunks, args.in.n), kThreads, 0, args,
         cut, moments);
}

}  // namespace
}  // namespace sdcore::norm
