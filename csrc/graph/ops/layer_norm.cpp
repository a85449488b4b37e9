// layer_norm(x [..., c], weight [c], bias [c]) -> the same sizes, normalized over the channels
#include "graph/ops/common.h"
#include "kernels/norm/norm.h"

namespace sdcore {
namespace {

struct LayerNormAttrs {
  double eps = 1e-5;

  template <class F>
  void fields(F&& f) {
    f("eps", eps);
  }
};

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("layer_norm", "x", in[0], 2, 4);
  for (size_t i = 1; i < in.size(); ++i) {
    if (node.inputs[i] != kAbsent) {
      require_channels("layer_norm", i == 1 ? "weight" : "bias", in[i], channels(in[0]));
    }
  }
  return in[0];
}

Step lower(const Lowering& l) {
  LayerNormArgs args;
  args.weight = l.vector(1);
  args.bias = l.vector(2);
  args.eps = static_cast<float>(read_attrs<LayerNormAttrs>("layer_norm", l.attrs()).eps);
  return [args, in = l.slot(0), out = l.output_slot()](const Run& run) {
    LayerNormArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    layer_norm(now, run.kernels);
  };
}

}  // namespace

const Op op_layer_norm = {
    .name = "layer_norm",
    .inputs = {{"x"}, {"weight", Op::Input::optional_weight}, {"bias", Op::Input::optional_weight}},
    .check = [](const Attrs& attrs) { check_attrs<LayerNormAttrs>("layer_norm", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
