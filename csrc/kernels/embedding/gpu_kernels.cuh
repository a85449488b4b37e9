#pragma once

#include "kernels/embedding/gpu.h"
#include "kernels/gpu.cuh"

namespace sdcore::embedding_kernels {
namespace {

constexpr int kThreads = 256;

// out[n][t] = row ids[n][t] of a table, which may be another for each image.
struct Gather {
  View ids, out;
  const void* table;
  DType dtype;
  int64_t stride, image_stride;  // of the table's rows; from one image's table to the next
  int32_t rows;
  gpu::Fault::Kind kind;  // what a row outside is
  gpu::Fault* fault;
};

__global__ void __launch_bounds__(kThreads) gather_kernel(Gather g, uint32_t count) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= count) return;
  const auto c = static_cast<uint32_t>(g.out.c), w = static_cast<uint32_t>(g.out.w);
  const Pixel p = {index / c / w, 0, index / c % w};
  const int64_t channel = index % c;
  const int32_t id = static_cast<const int32_t*>(g.ids.data)[element(g.ids, p)];
  float value = 0.0f;
  if (id >= 0 && id < g.rows) {
    value = load<1>(g.table, g.dtype, p.n * g.image_stride + id * g.stride + channel).v[0];
  } else if (channel == 0 && gpu::claim(&g.fault->kind, g.kind)) {
    g.fault->value = id;
    g.fault->position = static_cast<int32_t>(p.w);
    g.fault->limit = g.rows;
  }
  store<1>(g.out.data, g.out.dtype, element(g.out, p) + channel, {{value}});
}

void gather(const Gather& g, gpu::Device& device) {
  const int64_t count = g.out.pixels() * g.out.c;
  if (count == 0) return;
  require(count < INT32_MAX, ErrorKind::invalid_argument, "[embedding] ", count,
          " numbers are too many for one kernel");
  launch(device, gather_kernel, static_cast<uint32_t>(blocks_of(count, kThreads)), kThreads, 0, g,
         static_cast<uint32_t>(count));
}

void embedding(const EmbeddingArgs& args, gpu::Device& device) {
  const DType dtype = *find_dtype(type_info(args.table.type).name);
  gather({args.ids, args.out, args.table.data, dtype, args.out.c, 0,
          static_cast<int32_t>(args.table.shape[0]), gpu::Fault::embedding_id, device.fault()},
         device);
}

void take(const TakeArgs& args, gpu::Device& device) {
  gather({args.index, args.out, args.in.data, args.in.dtype, args.in.stride_w, args.in.stride_n,
          static_cast<int32_t>(args.in.w), gpu::Fault::take_index, device.fault()},
         device);
}

constexpr GpuKernel kGpuKernel = {gpu::kBackend, embedding, take};

}  // namespace
}  // namespace sdcore::embedding_kernels
