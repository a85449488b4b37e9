// timestep_embedding(t [n], dim) -> [n, dim]: sinusoids, as diffusers' get_timestep_embedding;
// timestep_embedding(t [n, k], dim) -> [n, k * dim]: each of k numbers, one after another
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
  require_rank("timestep_embedding", "t", in[0], 1, 2);
  const int64_t each = in[0].shape.size() == 2 ? in[0].shape[1] : 1;
  return {{in[0].shape[0], each * read(node.attrs).dim}, DType::f32};
}

// [n, 1, 1, k * size] as [n, 1, k, size]
View split_channels(View view, int64_t size) {
  view.w = view.c / size;
  view.c = view.stride_w = size;
  return view;
}

Step lower(const Lowering& l) {
  const TimestepAttrs a = read(l.attrs());
  TimestepEmbeddingArgs args;
  args.flip_sin_to_cos = a.flip_sin_to_cos;
  args.downscale_freq_shift = static_cast<float>(a.downscale_freq_shift);
  return [args, dim = a.dim, in = l.slot(0), out = l.output_slot()](const Run& run) {
    TimestepEmbeddingArgs now = args;
    now.in = split_channels(run.views[in], 1);
    now.out = split_channels(run.views[out], dim);
    timestep_embedding(now, run.kernels);
  };
}

}  // namespace

const Op op_timestep_embedding = {
    .name = "timestep_embedding",
    .inputs = {{"t", Op::Input::value, true}},
    .check = check,
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
