// A convolution is the product of its taps, read from an input that has a border of zeros: the
// view's own halo, or a copy in the workspace.
#include "kernels/conv2d/conv2d.h"

#include <algorithm>
#include <cstring>

#include "kernels/conv2d/winograd.h"
#include "kernels/gemm/packed_weight.h"

namespace sdcore {
namespace {

struct Padding {
  int64_t top, left, bottom, right;
  int64_t most() const { return std::max({top, left, bottom, right}); }
};

// Pixels around the image that some tap touches.
Padding padding_of(const Conv2dArgs& a) {
  if (a.upsampled) return {1, 1, 1, 1};
  const int64_t bottom = (a.out.h - 1) * a.stride + a.kernel_h - a.pad_top - a.in.h;
  const int64_t right = (a.out.w - 1) * a.stride + a.kernel_w - a.pad_left - a.in.w;
  return {a.pad_top, a.pad_left, std::max<int64_t>(bottom, 0), std::max<int64_t>(right, 0)};
}

bool needs_copy(const Conv2dArgs& a) { return padding_of(a).most() > a.in.halo; }

View padded_view(const Conv2dArgs& a) {
  const Padding pad = padding_of(a);
  return dense_view(a.workspace, a.in.dtype, a.in.n, a.in.h + pad.top + pad.bottom,
                    a.in.w + pad.left + pad.right, a.in.c);
}

void copy_padded(const Conv2dArgs& a, const View& to, ThreadPool& pool) {
  const Padding pad = padding_of(a);
  const auto size = static_cast<size_t>(dtype_size(a.in.dtype));
  const auto line = static_cast<size_t>(to.stride_h) * size;
  const auto pixel = static_cast<size_t>(to.c) * size;
  pool.parallel_for(to.n * to.h, [&](int64_t i, int) {
    std::byte* out = static_cast<std::byte*>(to.data) + static_cast<size_t>(i) * line;
    const int64_t n = i / to.h, y = i % to.h - pad.top;
    if (y < 0 || y >= a.in.h) {
      std::memset(out, 0, line);
      return;
    }
    const auto left = static_cast<size_t>(pad.left) * pixel;
    const auto inside = static_cast<size_t>(a.in.w) * pixel;
    std::memset(out, 0, left);
    const std::byte* from = static_cast<const std::byte*>(a.in.data) +
                            static_cast<size_t>(n * a.in.stride_n + y * a.in.stride_h) * size;
    if (a.in.stride_w == a.in.c) {
      std::memcpy(out + left, from, inside);
    } else {
      for (int64_t x = 0; x < a.in.w; ++x) {
        std::memcpy(out + left + static_cast<size_t>(x) * pixel,
                    from + static_cast<size_t>(x * a.in.stride_w) * size, pixel);
      }
    }
    std::memset(out + left + inside, 0, line - left - inside);
  });
}

// Every second pixel of every second line, from (y, x) on.
View phase_of(const View& v, int64_t y, int64_t x) {
  View phase = v;
  phase.data =
      static_cast<std::byte*>(v.data) + (y * v.stride_h + x * v.stride_w) * dtype_size(v.dtype);
  phase.h /= 2;
  phase.w /= 2;
  phase.stride_h *= 2;
  phase.stride_w *= 2;
  phase.halo = 0;
  return phase;
}

// `in` begins at the pixel before the first, above and to the left.
void convolve_upsampled(const Conv2dArgs& a, const View& in, const KernelContext& context) {
  for (int64_t phase = 0; phase < 4; ++phase) {
    const int64_t y = phase / 2, x = phase % 2;
    View from = in;
    from.data = static_cast<std::byte*>(in.data) +
                (y * in.stride_h + x * in.stride_w) * dtype_size(in.dtype);
    Epilogue epilogue = a.epilogue;
    if (epilogue.residual.data) epilogue.residual = phase_of(epilogue.residual, y, x);
    gemm::multiply(from, phase_of(a.out, y, x), *a.weight->phases[static_cast<size_t>(phase)],
                   {2, 2, 1}, epilogue, context);
  }
}

// Where tap `t` of three lies among the two that remain, for outputs of this parity.
int64_t folded_tap(int64_t t, int64_t parity) { return (t + 1 - parity) / 2; }

// The weight of one phase, from all taps' values.
Tensor folded(const PackedWeight& w, const float* values, int64_t y, int64_t x, ThreadPool& pool) {
  const auto memory =
      std::make_shared<std::vector<float>>(static_cast<size_t>(w.outputs * w.inputs * 4));
  pool.parallel_for(w.outputs, [&](int64_t output, int) {
    for (int64_t r = output * w.inputs; r < (output + 1) * w.inputs; ++r) {
      for (int64_t t = 0; t < 9; ++t) {
        const int64_t to = folded_tap(t / 3, y) * 2 + folded_tap(t % 3, x);
        (*memory)[static_cast<size_t>(r * 4 + to)] += values[r * 9 + t];
      }
    }
  });
  return {memory->data(), Type::f32, {w.outputs, w.inputs, 2, 2}, memory};
}

void check(const Conv2dArgs& a, const KernelContext& context) {
  gemm::check("conv2d", a.in, a.out, a.weight, a.epilogue, context);
  const auto need = [](bool ok, const auto&... text) {
    require(ok, ErrorKind::invalid_argument, "[conv2d] ", text...);
  };
  need(a.stride >= 1, "stride must be positive, got ", a.stride);
  need(a.kernel_h >= 1 && a.kernel_w >= 1 && a.kernel_h * a.kernel_w == a.weight->kernel,
       "the weight has ", a.weight->kernel, " taps, not ", a.kernel_h, " x ", a.kernel_w);
  need(a.pad_top >= 0 && a.pad_left >= 0, "padding cannot be negative, got ", a.pad_top, " and ",
       a.pad_left);
  need(a.workspace || conv2d_workspace(a, context) == 0,
       "no workspace for an input with a halo of ", a.in.halo);
  need(a.upsampled != a.weight->phases.empty(), "the weight is ", a.upsampled ? "not " : "",
       "packed for an upsampled input");
  need(!a.upsampled || (a.out.h == 2 * a.in.h && a.out.w == 2 * a.in.w && a.stride == 1 &&
                        a.kernel_h == 3 && a.pad_top == 1 && a.pad_left == 1),
       "only 3x3 with stride and padding 1 takes an upsampled input to twice its size");
}

}  // namespace

PackedWeightPtr pack_conv2d_weight(const Tensor& weight, DType dtype,
                                   const KernelContext& context) {
  const std::shared_ptr<PackedWeight> packed = gemm::pack(weight, dtype, context, false);
  if (!context.device) packed->norms = winograd::weight_norms(*packed, context);
  return packed;
}

bool folds_upsample(DType dtype, Isa isa) { return !winograd::suits(dtype, isa); }

PackedWeightPtr pack_upsampled_weight(const Tensor& weight, DType dtype,
                                      const KernelContext& context) {
  require(
      !context.device && weight.shape.size() == 4 && weight.shape[2] == 3 && weight.shape[3] == 3,
      ErrorKind::invalid_argument, "[conv2d] a weight of ", to_string(weight.shape),
      " cannot be folded for an upsampled input here");
  const std::shared_ptr<PackedWeight> packed(new PackedWeight, PackedWeightDeleter());
  packed->dtype = dtype;
  packed->outputs = weight.shape[0];
  packed->inputs = weight.shape[1];
  packed->kernel = 9;
  const Buffer values = gemm::expand(weight, *packed, context);
  for (int64_t phase = 0; phase < 4; ++phase) {
    const Tensor part = folded(*packed, reinterpret_cast<const float*>(values.data()), phase / 2,
                               phase % 2, context.pool);
    packed->phases.push_back(gemm::pack(part, dtype, context, false));
  }
  packed->variant = packed->phases[0]->variant;
  return packed;
}

bool convolves_integers(Isa isa) { return winograd::multiplies_integers(DType::bf16, isa); }

size_t conv2d_workspace(const Conv2dArgs& args, const KernelContext& context) {
  if (context.device) {
    return gemm::device_workspace(args.in, args.out, int64_t{args.kernel_h} * args.kernel_w,
                                  args.out.c, *context.device);
  }
  if (!args.upsampled && winograd::suits(args, context.isa)) {
    return winograd::workspace_bytes(args, context.isa);
  }
  if (!needs_copy(args)) return 0;
  const View padded = padded_view(args);
  return align_up(static_cast<size_t>(padded.n * padded.stride_n * dtype_size(padded.dtype)));
}

bool conv2d_wants_halo(const Conv2dArgs& args, const KernelContext& context) {
  return !context.device && (args.upsampled || !winograd::suits(args, context.isa));
}

void conv2d(const Conv2dArgs& args, const KernelContext& context) {
  check(args, context);
  if (args.out.pixels() == 0) return;
  const gemm::Window window{args.kernel_h, args.kernel_w, args.stride};
  if (context.device) {
    return gemm::multiply_on_device(args.in, args.out, *args.weight, window,
                                    {args.pad_top, args.pad_left}, args.epilogue, context,
                                    args.workspace);
  }
  if (!args.upsampled && winograd::suits(args, context.isa)) return winograd::conv2d(args, context);
  View in = args.in;
  if (needs_copy(args)) {
    in = padded_view(args);
    copy_padded(args, in, context.pool);
  } else {
    const int64_t before = args.pad_top * in.stride_h + args.pad_left * in.stride_w;
    in.data = static_cast<std::byte*>(in.data) - before * dtype_size(in.dtype);
  }
  if (args.upsampled) return convolve_upsampled(args, in, context);
  gemm::multiply(in, args.out, *args.weight, window, args.epilogue, context);
}

}  // namespace sdcore
