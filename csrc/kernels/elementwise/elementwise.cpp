// Checks arguments, merges what is adjacent in memory and deals runs of pixels to the threads.
#include "kernels/elementwise/elementwise.h"

#include <algorithm>

#include "base/shape.h"
#include "kernels/elementwise/gpu.h"
#include "kernels/elementwise/kernel.h"
#include "kernels/registry.h"

namespace sdcore {
namespace {

using elementwise::Kernel;
using elementwise::Span;

constexpr std::array kRows = {
#define SDCORE_KERNEL(isa) &elementwise::kernel_##isa,
#include "kernels/elementwise/kernels.inc"
#undef SDCORE_KERNEL
};

// Elements a task, so that a task outlasts the cost of dealing it.
constexpr int64_t kTaskElements = 16384;

std::string describe(const View& v) { return to_string({v.n, v.h, v.w, v.c}); }

void require_float(const char* op, const char* name, const View& v) {
  require(v.dtype != DType::i32, ErrorKind::invalid_argument, "[", op, "] ", name,
          " must be floats, got i32");
}

// A view walked as [n][h][w] pixels with the strides of sizes that are repeated set to 0.
struct Walk {
  const View* view;
  int64_t n, h, w;  // strides

  Walk(const View& v, const View& out)
      : view(&v),
        n(v.n == out.n ? v.stride_n : 0),
        h(v.h == out.h ? v.stride_h : 0),
        w(v.w == out.w ? v.stride_w : 0) {}
  const void* at(int64_t in, int64_t iy, int64_t ix) const {
    return static_cast<const std::byte*>(view->data) +
           (in * n + iy * h + ix * w) * dtype_size(view->dtype);
  }
};

// Calls body(span) on the pool for pieces that cover `out`. a, b and out have the same n, h and w
// but for sizes of 1 in b, which repeat.
template <class Body>
void for_spans(const View& a, const View& b, const View& out, ThreadPool& pool, Body body) {
  const Walk walks[] = {Walk(a, out), Walk(b, out), Walk(out, out)};
  int64_t n = out.n, h = out.h, w = out.w, c = out.c;
  const auto all = [&](auto adjacent) { return std::all_of(walks, std::end(walks), adjacent); };
  if (h == 1 || all([&](const Walk& s) { return s.h == w * s.w; })) {
    w *= h;
    h = 1;
    if (n == 1 || all([&](const Walk& s) { return s.n == w * s.w; })) {
      w *= n;
      n = 1;
    }
  }
  const bool dense = a.c == c && all([&](const Walk& s) { return s.w == c; });
  const int64_t pixels = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(c, 1));
  const int64_t pieces = (w + pixels - 1) / pixels;
  pool.parallel_for(n * h * pieces, [&](int64_t task, int) {
    const int64_t x = task % pieces * pixels;
    const int64_t row = task / pieces, in = row / h, iy = row % h;
    const int64_t count = std::min(pixels, w - x);
    Span span{{walks[0].at(in, iy, x), a.dtype, walks[0].w},
              {walks[1].at(in, iy, x), b.dtype, walks[1].w},
              {const_cast<void*>(walks[2].at(in, iy, x)), out.dtype, walks[2].w},
              dense ? 1 : count,
              dense ? count * c : c};
    body(span);
  });
}

void require_same_pixels(const char* op, const View& in, const View& out, int64_t channels) {
  require_float(op, "in", in);
  require_float(op, "out", out);
  require(in.n == out.n && in.h == out.h && in.w == out.w && in.c == channels,
          ErrorKind::invalid_argument, "[", op, "] in ", describe(in), " does not fit out ",
          describe(out));
}

}  // namespace

void unary(const UnaryArgs& args, const KernelContext& context) {
  require_same_pixels("unary", args.in, args.out, args.out.c);
  if (context.device) return elementwise::gpu_kernel(*context.device).unary(args, *context.device);
  const Kernel& kernel = pick(kRows, context.isa);
  for_spans(args.in, args.in, args.out, context.pool,
            [&](const Span& span) { kernel.unary(span, args.activation); });
}

void binary(const BinaryArgs& args, const KernelContext& context) {
  require_same_pixels("binary", args.a, args.out, args.out.c);
  require_float("binary", "b", args.b);
  const auto repeats = [](int64_t size, int64_t whole) { return size == whole || size == 1; };
  require(repeats(args.b.n, args.a.n) && repeats(args.b.h, args.a.h) &&
              repeats(args.b.w, args.a.w) && args.b.c == args.a.c,
          ErrorKind::invalid_argument, "[binary] b ", describe(args.b), " does not repeat over a ",
          describe(args.a));
  if (context.device) return elementwise::gpu_kernel(*context.device).binary(args, *context.device);
  const Kernel& kernel = pick(kRows, context.isa);
  for_spans(args.a, args.b, args.out, context.pool,
            [&](const Span& span) { kernel.binary(span, args.op); });
}

void geglu(const GegluArgs& args, const KernelContext& context) {
  require_same_pixels("geglu", args.in, args.out, 2 * args.out.c);
  if (context.device) return elementwise::gpu_kernel(*context.device).geglu(args, *context.device);
  const Kernel& kernel = pick(kRows, context.isa);
  for_spans(args.in, args.in, args.out, context.pool,
            [&](const Span& span) { kernel.geglu(span); });
}

void scale(const ScaleArgs& args, const KernelContext& context) {
  require_same_pixels("scale", args.in, args.out, args.out.c);
  if (context.device) return elementwise::gpu_kernel(*context.device).scale(args, *context.device);
  const Kernel& kernel = pick(kRows, context.isa);
  for_spans(args.in, args.in, args.out, context.pool,
            [&](const Span& span) { kernel.scale(span, args.factor); });
}

std::vector<std::string> elementwise_variants() { return row_names(kRows); }

}  // namespace sdcore
