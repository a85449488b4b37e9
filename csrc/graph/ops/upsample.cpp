// upsample(x [n, h, w, c]) -> [n, 2h, 2w, c]; upsample(x, like [n, h', w', ...]) -> [n, h', w', c];
// nearest
#include "graph/ops/common.h"
#include "kernels/resample/resample.h"

namespace sdcore {
namespace {

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("upsample", "x", in[0], 4, 4);
  TensorType out = in[0];
  if (in.size() > 1) {
    require_rank("upsample", "like", in[1], 4, 4);
    out.shape[1] = in[1].shape[1];
    out.shape[2] = in[1].shape[2];
  } else {
    out.shape[1] *= 2;
    out.shape[2] *= 2;
  }
  return out;
}

Step lower(const Lowering& l) {
  return [in = l.slot(0), out = l.output_slot()](const Run& run) {
    upsample_nearest({run.views[in], run.views[out]}, run.kernels);
  };
}

}  // namespace

const Op op_upsample = {
    .name = "upsample",
    .inputs = {{"x"}, {"like", Op::Input::optional_value}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("upsample", attrs); },
    .infer = infer,
    .lower = lower,
    .writes_halo = true,
};

}  // namespace sdcore
