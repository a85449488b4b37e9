// Checks arguments, picks the variant and deals blocks of queries to the threads.
#include "kernels/attention/attention.h"

#include <algorithm>

#include "base/shape.h"
#include "kernels/attention/gpu.h"
#include "kernels/attention/kernel.h"
#include "kernels/registry.h"

namespace sdcore {
namespace {

using attention_kernels::Block;
using attention_kernels::Kernel;

constexpr std::array kRows = {
#define SDCORE_KERNEL(name) &attention_kernels::kernel_##name,
#include "kernels/attention/kernels.inc"
#undef SDCORE_KERNEL
};

const Kernel& pick_for(const AttentionArgs& args, Isa isa) {
  return pick(kRows, isa, [&](const Kernel& kernel) {
    return (kernel.takes_f32 || args.q.dtype == DType::bf16) && args.q.w >= kernel.least_queries;
  });
}

std::string describe(const View& v) { return to_string({v.n, v.h, v.w, v.c}); }

void require_arguments(const AttentionArgs& args) {
  const View &q = args.q, &k = args.k, &v = args.v, &out = args.out;
  require(args.heads > 0 && q.c > 0 && q.c % args.heads == 0, ErrorKind::invalid_argument,
          "[attention] channels must divide by heads, got ", q.c, " and ", args.heads);
  require(q.dtype != DType::i32 && q.dtype == k.dtype && q.dtype == v.dtype && q.dtype == out.dtype,
          ErrorKind::invalid_argument, "[attention] q, k, v and out must be floats of one type");
  require(q.h == 1 && k.h == 1 && v.h == 1 && out.h == 1 && q.n == k.n && q.n == v.n &&
              q.n == out.n && q.c == k.c && q.c == v.c && q.c == out.c && k.w == v.w &&
              q.w == out.w,
          ErrorKind::invalid_argument, "[attention] shapes do not fit: q ", describe(q), ", k ",
          describe(k), ", v ", describe(v), ", out ", describe(out));
  require(k.w > 0, ErrorKind::invalid_argument, "[attention] there are no keys");
  const View &relative = args.relative, &mask = args.mask;
  require(relative.c == 0 || (relative.dtype != DType::i32 && relative.n == 1 && relative.h == 1 &&
                              relative.w == q.w + k.w - 1 && relative.c == args.heads),
          ErrorKind::invalid_argument, "[attention] relative must be [1, tq + tk - 1, heads], got ",
          describe(relative));
  require(mask.c == 0 || (mask.dtype != DType::i32 && mask.n == k.n && mask.h == 1 && mask.w == 1 &&
                          mask.c == k.w),
          ErrorKind::invalid_argument, "[attention] mask must be [n, tk], got ", describe(mask));
  require(args.scale > 0, ErrorKind::invalid_argument, "[attention] scale must be positive, got ",
          args.scale);
}

}  // namespace

size_t attention_workspace(const AttentionArgs& args, const KernelContext& context) {
  return context.device ? 0 : pick_for(args, context.isa).workspace_bytes(args);
}

void attention(const AttentionArgs& args, const KernelContext& context) {
  require_arguments(args);
  if (args.q.pixels() == 0) return;
  if (context.device) {
    return attention_kernels::gpu_kernel(*context.device).attention(args, *context.device);
  }
  const Kernel& kernel = pick_for(args, context.isa);
  require(args.workspace != nullptr || kernel.workspace_bytes(args) == 0, ErrorKind::internal,
          "[attention] workspace is missing");
  ThreadPool& pool = context.pool;
  const auto lock = pool.reserve_scratch(kernel.scratch_bytes(args));
  pool.parallel_for(kernel.pack_tasks(args), [&](int64_t task, int) { kernel.pack(args, task); });
  const int64_t blocks = (args.q.w + kernel.queries - 1) / kernel.queries;
  pool.parallel_for(args.q.n * args.heads * blocks, [&](int64_t task, int thread) {
    const int64_t sequence = task / blocks, begin = task % blocks * kernel.queries;
    const Block block{sequence / args.heads, sequence % args.heads, begin,
                      std::min(args.q.w, begin + kernel.queries)};
    kernel.attend(args, block, pool.scratch(thread));
  });
}

std::vector<std::string> attention_variants() { return row_names(kRows); }

}  // namespace sdcore
