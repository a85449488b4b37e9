// Rows of a table by index: a memory copy with a change of type, so portable code alone.
#include "kernels/embedding/embedding.h"

#include <cstring>

#include "base/error.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/gpu.h"

namespace sdcore {
namespace {

void store(const float* row, int64_t c, const View& out, int64_t n, int64_t t) {
  if (out.dtype == DType::f32) {
    std::memcpy(out.at<float>(n, 0, t), row, sizeof(float) * static_cast<size_t>(c));
    return;
  }
  bf16* to = out.at<bf16>(n, 0, t);
  for (int64_t i = 0; i < c; ++i) to[i] = to_bf16(row[i]);
}

void require_arguments(const EmbeddingArgs& args) {
  const View &ids = args.ids, &out = args.out;
  const Shape& table = args.table.shape;
  require(ids.dtype == DType::i32 && ids.h == 1 && ids.c == 1, ErrorKind::invalid_argument,
          "[embedding] ids must be i32 [n, t]");
  require(table.size() == 2 && table[1] == out.c, ErrorKind::invalid_argument, "[embedding] table ",
          to_string(table), " does not hold rows of ", out.c);
  require(out.n == ids.n && out.h == 1 && out.w == ids.w && out.dtype != DType::i32,
          ErrorKind::invalid_argument, "[embedding] out must have a row for each id");
}

void require_ids_inside(const EmbeddingArgs& args) {
  const View& ids = args.ids;
  const Shape& table = args.table.shape;
  for (int64_t n = 0; n < ids.n; ++n) {
    for (int64_t t = 0; t < ids.w; ++t) {
      const int32_t id = *ids.at<const int32_t>(n, 0, t);
      require(id >= 0 && id < table[0], ErrorKind::invalid_argument, "[embedding] id ", id,
              " at position ", t, " is outside the table of ", table[0], " rows");
    }
  }
}

View one_token(const View& v, int64_t n, int64_t token) {
  View one = v;
  one.data =
      static_cast<std::byte*>(v.data) + (n * v.stride_n + token * v.stride_w) * dtype_size(v.dtype);
  one.n = one.h = one.w = 1;
  return one;
}

}  // namespace

void take(const TakeArgs& args, const KernelContext& context) {
  if (context.device) {
    return embedding_kernels::gpu_kernel(*context.device).take(args, *context.device);
  }
  for (int64_t n = 0; n < args.in.n; ++n) {
    const int32_t token = *args.index.at<const int32_t>(n, 0, 0);
    require(token >= 0 && token < args.in.w, ErrorKind::invalid_argument, "[take] index ", token,
            " is outside a sequence of ", args.in.w);
    unary({one_token(args.in, n, token), one_token(args.out, n, 0), Activation::none}, context);
  }
}

void embedding(const EmbeddingArgs& args, const KernelContext& context) {
  require_arguments(args);
  if (context.device) {
    return embedding_kernels::gpu_kernel(*context.device).embedding(args, *context.device);
  }
  require_ids_inside(args);
  const View &ids = args.ids, &out = args.out;
  const TypeInfo& type = type_info(args.table.type);
  require(type.to_float != nullptr && out.c % type.block_size == 0, ErrorKind::invalid_argument,
          "[embedding] rows of ", out.c, " cannot be read as ", type.name);
  const int64_t row_bytes = out.c / type.block_size * type.block_bytes;
  const auto lock = context.pool.reserve_scratch(sizeof(float) * static_cast<size_t>(out.c));
  context.pool.parallel_for(ids.n * ids.w, [&](int64_t task, int thread) {
    const int64_t n = task / ids.w, t = task % ids.w;
    const int64_t id = *ids.at<const int32_t>(n, 0, t);
    float* row = reinterpret_cast<float*>(context.pool.scratch(thread));
    type.to_float(static_cast<const std::byte*>(args.table.data) + id * row_bytes, row, out.c);
    store(row, out.c, out, n, t);
  });
}

}  // namespace sdcore
