// timestep_embedding(t [n], dim) -> [n, dim]: sinusoids, as diffusers' get_timestep_embedding
#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {
namespace {

struct TimestepAttrs {
  int64_t dim = 0;
  bool flip_sin_to_cos = true;
  double downscale_freq_shift = 0.0;

  template <class F>
  void fields(F&& f) {
    f("dim", dim);
    f("flip_sin_to_cos", flip_sin_to_cos);
    f("downscale_freq_shift", downscale_freq_shift);
  }
};

TimestepAttrs read(const Attrs& attrs) {
  return read_attrs<TimestepAttrs>("timestep_embedding", attrs);
}

void check(const Attrs& attrs) {
  const TimestepAttrs a = read(attrs);
  require(a.dim >= 2 && a.dim % 2 == 0, ErrorKind::invalid_argument,
          "[timestep_embedding] dim must be even and positive, got ", a.dim);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("timestep_embedding", "t", in[0], 1, 1);
  return {{in[0].shape[0], read(node.attrs).dim}, DType::f32};
}

Step lower(const Lowering& l) {
  const TimestepAttrs a = read(l.attrs());
  TimestepEmbeddingArgs args;
  args.flip_sin_to_cos = a.flip_sin_to_cos;
  args.downscale_freq_shift = static_cast<float>(a.downscale_freq_shift);
  return [args, in = l.slot(0), out = l.output_slot()](const Run& run) {
    TimestepEmbeddingArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    timestep_embedding(now, run.kernels);
  };
}

}  // namespace

const Op op_timestep_embedding = {
    .name = "timestep_embedding",
    .inputs = {{"t"}},
    .check = check,
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
