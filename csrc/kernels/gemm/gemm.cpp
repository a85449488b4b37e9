// The list of tile kernels, packing, and linear.
#include "kernels/gemm/gemm.h"

#include <algorithm>

#include "kernels/gemm/byte_panels.h"
#include "kernels/gemm/gpu.h"
#include "kernels/gemm/integers.h"
#include "kernels/gemm/packed_weight.h"

namespace sdcore {
namespace gemm {

const std::vector<const Variant*>& variants() {
  static const std::vector<const Variant*> all = {
#define SDCORE_GEMM(variant) &variant,
#if defined(SDCORE_HAVE_X86_KERNELS)
#define SDCORE_GEMM_X86(variant) SDCORE_GEMM(variant)
#else
#define SDCORE_GEMM_X86(variant)
#endif
#include "kernels/gemm/kernels.inc"
#undef SDCORE_GEMM
#undef SDCORE_GEMM_X86
  };
  return all;
}

namespace {

// The first row for a weight of `taps`, which may be multiplied as integers or not. Where its
// activations may be rounded to 8 bits then, `int8_most` is the most_integer of its type, else 0.
const Variant& pick(DType dtype, Isa isa, int64_t taps, bool integers, int int8_most) {
  const auto suits = [&](const Variant& v) {
    const bool bears = !v.int8 || (int8_most > 0 && int8_most <= v.most_weight);
    return v.dtype == dtype && permits(isa, v.isa) && (integers || !v.block_bytes) && bears &&
           (taps == 1 || !v.widens);
  };
  for (const Variant* variant : variants()) {
    if (suits(*variant)) return *variant;
  }
  fail(ErrorKind::invalid_argument, "[gemm] activations cannot be of type ", dtype_name(dtype));
}

bool is_float(Type type) { return type == Type::f32 || type == Type::f16 || type == Type::bf16; }

void set_sizes(const Tensor& weight, PackedWeight& w) {
  const auto size = [&](size_t i) { return i < weight.shape.size() ? weight.shape[i] : 1; };
  w.outputs = size(0);
  w.inputs = size(1);
  w.kernel = size(2) * size(3);
  const bool extra = std::any_of(weight.shape.begin() + std::min<size_t>(4, weight.shape.size()),
                                 weight.shape.end(), [](int64_t n) { return n != 1; });
  require(!weight.shape.empty() && !extra && element_count(weight.shape) > 0,
          ErrorKind::invalid_argument, "[gemm] weight must be [out, in] or [out, in, kh, kw], got ",
          to_string(weight.shape));
}

// Blocks that run along the inputs stay as they are; those of a convolution cross its taps.
bool has_rows_of_blocks(const Tensor& weight, const PackedWeight& w) {
  const TypeInfo& info = type_info(weight.type);
  return info.block_size > 1 && w.kernel == 1 && w.inputs % info.block_size == 0;
}

// Those of a convolution stay bytes, where the kernel can read them.
bool fits_bytes(const Tensor& weight, const PackedWeight& w) {
  return type_info(weight.type).to_integers && w.kernel > 1 && w.inputs % kStep == 0 &&
         w.variant->bytes;
}

void set_variant(const Tensor& weight, Isa isa, bool int8_activations, PackedWeight& w) {
  const bool blocks = has_rows_of_blocks(weight, w);
  const TypeInfo& info = type_info(weight.type);
  const bool integers = blocks ? info.to_integers != nullptr : w.inputs % kStep == 0;
  w.variant = &pick(w.dtype, isa, w.kernel, integers && w.kernel == 1,
                    blocks && int8_activations ? info.most_integer : 0);
  w.gathered = w.variant->whole_steps && w.inputs % kStep != 0;
}

Buffer pack_panels(const Tensor& weight, const PackedWeight& w, const KernelContext& context) {
  PackSource source{static_cast<const std::byte*>(weight.data),
                    weight.type,
                    w.outputs,
                    w.channels,
                    w.taps,
                    w.stored,
                    w.gated};
  Buffer values;
  if ((!is_float(weight.type) && !w.woven) || (w.gathered && w.kernel > 1)) {
    values = expand(weight, w, context);
    source.data = values.data();
    source.type = Type::f32;
  }
  const auto panel_bytes = static_cast<size_t>(w.stored_panel_bytes());
  Buffer panels(panel_bytes * static_cast<size_t>(w.panel_count()));
  const auto scratch = static_cast<size_t>(kStep * w.taps * w.variant->panel) * sizeof(float);
  const auto lock = context.pool.reserve_scratch(scratch);
  context.pool.parallel_for(w.panel_count(), [&](int64_t panel, int thread) {
    w.variant->pack(source, panel, panels.data() + panel_bytes * static_cast<size_t>(panel),
                    context.pool.scratch(thread));
  });
  return panels;
}

}  // namespace

std::shared_ptr<const Buffer> woven_panels(const PackedWeight& w, const KernelContext& context) {
  const auto panels = w.woven_panels.lock();
  if (!*panels) {
    *panels = std::make_shared<const Buffer>(pack_panels(w.source, w, context));
    w.source.release();
  }
  return *panels;
}

Buffer expand(const Tensor& weight, const PackedWeight& w, const KernelContext& context) {
  const int64_t row = w.inputs * w.kernel;
  Buffer values(static_cast<size_t>(w.outputs * row) * sizeof(float));
  auto* out = reinterpret_cast<float*>(values.data());
  constexpr int64_t piece = 1 << 16;  // a multiple of every block size
  const int64_t total = w.outputs * row;
  context.pool.parallel_for((total + piece - 1) / piece, [&](int64_t i, int) {
    to_float(weight, i * piece, std::min(piece, total - i * piece), out + i * piece);
  });
  if (!w.gathered || w.kernel == 1) return values;
  Buffer turned(values.size());
  auto* to = reinterpret_cast<float*>(turned.data());
  context.pool.parallel_for(w.outputs, [&](int64_t o, int) {
    for (int64_t i = 0; i < row; ++i) {
      to[o * row + i % w.kernel * w.inputs + i / w.kernel] = out[o * row + i];
    }
  });
  return turned;
}

void check(const char* place, const View& in, const View& out, const PackedWeightPtr& weight,
           const Epilogue& epilogue, const KernelContext& context) {
  const auto need = [&](bool ok, const auto&... text) {
    require(ok, ErrorKind::invalid_argument, "[", place, "] ", text...);
  };
  need(weight != nullptr, "no weight");
  need(weight->is_for_device() == (context.device != nullptr),
       "the weight is not where the kernel runs");
  if (const Variant* variant = weight->variant) {
    need(permits(context.isa, variant->isa), "the weight is packed for ", isa_name(variant->isa),
         ", which is above ", isa_name(context.isa));
  }
  need(in.dtype == weight->dtype, "the weight is packed for inputs of ", dtype_name(weight->dtype),
       ", got ", dtype_name(in.dtype));
  need(out.dtype != DType::i32, "the output cannot be i32");
  need(in.c == weight->inputs, "the weight has ", weight->inputs, " inputs, got ", in.c,
       " channels");
  need(weight->gated == epilogue.gated, "the weight is ", weight->gated ? "" : "not ",
       "packed for gated products");
  need(out.c == weight->outputs / (weight->gated ? 2 : 1), "the weight has ", weight->outputs,
       " outputs, got ", out.c, " channels");
  need(in.n == out.n, "input and output are batches of ", in.n, " and ", out.n);
  const View& r = epilogue.residual;
  need(!r.data || (r.n == out.n && r.h == out.h && r.w == out.w && r.c == out.c),
       "the residual's shape is not the output's");
  const View& b = epilogue.image_bias;
  need(!b.data || (b.n == out.n && b.c == out.c), "the image bias must be [n, 1, 1, out channels]");
}

}  // namespace gemm

int integer_bits(Type type, Isa isa, bool int8_activations) {
  const TypeInfo& info = type_info(type);
  if (info.block_size > 1 && !info.to_integers) return 0;
  const gemm::Variant& variant =
      gemm::pick(DType::bf16, isa, 1, true, int8_activations ? info.most_integer : 0);
  if (!variant.block_bytes || variant.isa == Isa::generic) return 0;
  return variant.int8 ? 8 : 16;
}

size_t device_bytes(const Tensor& weight, DType dtype) {
  PackedWeight w;
  w.dtype = dtype;
  gemm::set_sizes(weight, w);
  return gemm::bytes_on_device(weight, w);
}

void release_woven(const PackedWeight& weight) { weight.woven_panels.lock()->reset(); }

void PackedWeightDeleter::operator()(PackedWeight* weight) const { delete weight; }

std::shared_ptr<PackedWeight> gemm::pack(const Tensor& weight, DType dtype,
                                         const KernelContext& context, bool int8_activations,
                                         bool gated) {
  std::shared_ptr<PackedWeight> w(new PackedWeight, PackedWeightDeleter());
  w->dtype = dtype;
  w->gated = gated;
  gemm::set_sizes(weight, *w);
  if (!context.device) gemm::set_variant(weight, context.isa, int8_activations, *w);
  w->channels = w->gathered ? w->inputs * w->kernel : w->inputs;
  w->taps = w->gathered ? 1 : w->kernel;
  if (context.device) {
    gemm::upload(weight, *w, context);
    return w;
  }
  const bool is_float = gemm::is_float(weight.type);
  if (!is_float) {
    const TypeInfo& info = type_info(weight.type);
    require(info.to_float != nullptr, ErrorKind::invalid_argument,
            "[gemm] a weight cannot be of type ", info.name);
    if (!w->gathered && gemm::has_rows_of_blocks(weight, *w)) {
      w->stored = weight.type;
      w->woven = w->variant->woven_bytes(weight.type) > 0;
      w->source = weight;
      if (w->woven) (void)gemm::woven_panels(*w, context);
      return w;
    }
    if (gemm::fits_bytes(weight, *w)) {
      w->stored = gemm::kBytes;
      w->offsets = info.offsets;
      gemm::pack_bytes(weight, *w, context.pool);
      return w;
    }
  }
  w->stored = w->variant->block_bytes ? gemm::kIntegers
              : dtype == DType::bf16  ? Type::bf16
              : is_float              ? weight.type
                                      : Type::f32;
  w->panels = gemm::pack_panels(weight, *w, context);
  return w;
}

PackedWeightPtr pack_weight(const Tensor& weight, DType dtype, const KernelContext& context,
                            bool int8_activations) {
  return gemm::pack(weight, dtype, context, int8_activations);
}

PackedWeightPtr pack_gated_weight(const Tensor& weight, DType dtype, const KernelContext& context) {
  PackedWeight sizes;
  gemm::set_sizes(weight, sizes);
  const int64_t multiple = gated_multiple(dtype, context.isa, context.device != nullptr);
  require(multiple > 0 && sizes.outputs % multiple == 0 && sizes.kernel == 1,
          ErrorKind::invalid_argument, "[gemm] a weight of ", sizes.outputs, " outputs and ",
          sizes.kernel, " taps cannot be gated here");
  return gemm::pack(weight, dtype, context, false, true);
}

int64_t gated_multiple(DType dtype, Isa isa, bool on_device) {
  if (on_device) return 2 * gemm::kGateRun;
  const gemm::Variant& variant = gemm::pick(dtype, isa, 1, false, 0);
  return variant.gates ? variant.panel : 0;
}

size_t linear_workspace(const View& in, const View& out, int64_t outputs,
                        const KernelContext& context) {
  return context.device ? gemm::device_workspace(in, out, 1, outputs, *context.device) : 0;
}

void linear(const LinearArgs& args, const KernelContext& context) {
  gemm::check("linear", args.in, args.out, args.weight, args.epilogue, context);
  require(args.weight->kernel == 1, ErrorKind::invalid_argument,
          "[linear] the weight is of a convolution with ", args.weight->kernel, " taps");
  require(args.in.h == args.out.h && args.in.w == args.out.w, ErrorKind::invalid_argument,
          "[linear] input and output have ", args.in.h, " x ", args.in.w, " and ", args.out.h,
          " x ", args.out.w, " pixels");
  if (context.device) {
    return gemm::multiply_on_device(args.in, args.out, *args.weight, {}, {}, args.epilogue, context,
                                    args.workspace);
  }
  gemm::multiply(args.in, args.out, *args.weight, {}, args.epilogue, context);
}

}  // namespace sdcore
