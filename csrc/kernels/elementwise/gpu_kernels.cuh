// A thread takes a vector of channels of one pixel, or one channel where views do not allow it.
#pragma once

#include "kernels/elementwise/gpu.h"
#include "kernels/gpu.cuh"

namespace sdcore::elementwise {
namespace {

constexpr int kThreads = 256;

// out = f(a, b), with strides of 0 where b repeats.
struct Map {
  View a, b, out;
};

template <int n, class F>
__global__ void __launch_bounds__(kThreads) map_kernel(Map m, F f, uint32_t count) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= count) return;
  const auto vectors = static_cast<uint32_t>(m.out.c / n);
  const Pixel p =
      pixel_at(index / vectors, static_cast<uint32_t>(m.out.h), static_cast<uint32_t>(m.out.w));
  const int64_t c = static_cast<int64_t>(index % vectors) * n;
  const auto a = load<n>(m.a.data, m.a.dtype, element(m.a, p) + c);
  const auto b = load<n>(m.b.data, m.b.dtype, element(m.b, p) + c);
  store<n>(m.out.data, m.out.dtype, element(m.out, p) + c, f(a, b));
}

template <class F>
void map(const Map& m, const F& f, gpu::Device& device) {
  const int64_t total = m.out.pixels() * m.out.c;
  if (total == 0) return;
  const bool whole = is_vectorized(m.a) && is_vectorized(m.b) && is_vectorized(m.out);
  const int64_t count = whole ? total / kVector : total;
  require(count < INT32_MAX, ErrorKind::invalid_argument, "[elementwise] ", total,
          " numbers are too many for one kernel");
  const auto grid = gpu::dim3(static_cast<uint32_t>(blocks_of(count, kThreads)));
  if (whole) {
    launch(device, map_kernel<kVector, F>, grid, kThreads, 0, m, f, static_cast<uint32_t>(count));
  } else {
    launch(device, map_kernel<1, F>, grid, kThreads, 0, m, f, static_cast<uint32_t>(count));
  }
}

struct Activate {
  Activation activation;
  template <int n>
  __device__ Values<n> operator()(Values<n> x, const Values<n>&) const {
    activate(activation, x);
    return x;
  }
};
struct Combine {
  BinaryOp op;
  __device__ float one(float x, float y) const {
    if (op == BinaryOp::add) return x + y;
    return op == BinaryOp::prelu && x > 0.0f ? x : x * y;
  }
  template <int n>
  __device__ Values<n> operator()(Values<n> x, const Values<n>& y) const {
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) x.v[i] = one(x.v[i], y.v[i]);
    return x;
  }
};
struct Gate {
  template <int n>
  __device__ Values<n> operator()(Values<n> x, const Values<n>& gate) const {
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) x.v[i] *= activate(Activation::gelu, gate.v[i]);
    return x;
  }
};
struct Multiply {
  float factor;
  template <int n>
  __device__ Values<n> operator()(Values<n> x, const Values<n>&) const {
    SDCORE_UNROLL
    for (int i = 0; i < n; ++i) x.v[i] *= factor;
    return x;
  }
};

void unary(const UnaryArgs& args, gpu::Device& device) {
  map({args.in, args.in, args.out}, Activate{args.activation}, device);
}

void binary(const BinaryArgs& args, gpu::Device& device) {
  View b = args.b;
  if (b.n != args.out.n) b.stride_n = 0;
  if (b.h != args.out.h) b.stride_h = 0;
  if (b.w != args.out.w) b.stride_w = 0;
  map({args.a, b, args.out}, Combine{args.op}, device);
}

void geglu(const GegluArgs& args, gpu::Device& device) {
  View a = args.in, gate = args.in;
  a.c = gate.c = args.out.c;
  gate.data = static_cast<std::byte*>(gate.data) + args.out.c * dtype_size(gate.dtype);
  map({a, gate, args.out}, Gate{}, device);
}

void scale(const ScaleArgs& args, gpu::Device& device) {
  map({args.in, args.in, args.out}, Multiply{args.factor}, device);
}

// A thread a frequency of a number. Rounded to float where the processor's version rounds.
__global__ void timestep_kernel(TimestepEmbeddingArgs args, float log_period, float range,
                                uint32_t count) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t half = args.out.c / 2, i = index % half, number = index / half;
  const Pixel p = {number / args.out.w, 0, number % args.out.w};
  const float exponent = log_period * static_cast<float>(i) / range;
  const auto frequency = static_cast<float>(exp(static_cast<double>(exponent)));
  const float angle = static_cast<const float*>(args.in.data)[element(args.in, p)] * frequency;
  const int64_t sin_at = args.flip_sin_to_cos ? half : 0;
  const int64_t at = element(args.out, p) + i;
  const auto put = [&](int64_t to, double value) {
    store<1>(args.out.data, args.out.dtype, to, {{static_cast<float>(value)}});
  };
  put(at + sin_at, sin(static_cast<double>(angle)));
  put(at + half - sin_at, cos(static_cast<double>(angle)));
  if (args.out.c % 2 != 0 && i == 0) put(at + args.out.c - 1, 0.0);
}

void timestep_embedding(const TimestepEmbeddingArgs& args, gpu::Device& device) {
  const int64_t half = args.out.c / 2, count = args.out.pixels() * half;
  if (count == 0) return;
  const auto log_period = static_cast<float>(-std::log(static_cast<double>(args.max_period)));
  launch(device, timestep_kernel, static_cast<uint32_t>(blocks_of(count, kThreads)), kThreads, 0,
         args, log_period, static_cast<float>(half) - args.downscale_freq_shift,
         static_cast<uint32_t>(count));
}

constexpr GpuKernel kGpuKernel = {gpu::kBackend, unary, binary, geglu, scale, timestep_embedding};

}  // namespace
}  // namespace sdcore::elementwise
