// layer_norm(x [..., c], weight [c], bias [c], scale [n, c], shift [n, c]) -> the same sizes,
// normalized over the channels; then times 1 + scale and plus shift, where given
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
    if (node.inputs[i] == kAbsent) continue;
    const char* name = node.op->inputs[i].name;
    require_channels("layer_norm", name, in[i], channels(in[0]));
    const View v = view_of(in[i]);
    require(i < 3 || (v.n == in[0].shape[0] && v.pixels() == v.n), ErrorKind::invalid_argument,
            "[layer_norm] ", name, " must be one vector an image, got ", to_string(in[i].shape),
            " for ", to_string(in[0].shape));
  }
  return in[0];
}

LayerNormArgs sizes(const Lowering& l) {
  LayerNormArgs args;
  args.in = l.view(0);
  if (l.has(3)) args.scale = l.view(3);
  if (l.has(4)) args.shift = l.view(4);
  return args;
}

size_t workspace(const Lowering& l) { return layer_norm_workspace(sizes(l), l.kernels()); }

Step lower(const Lowering& l) {
  LayerNormArgs args = sizes(l);
  const int scale = l.has(3) ? l.slot(3) : kAbsent, shift = l.has(4) ? l.slot(4) : kAbsent;
  args.weight = l.vector(1);
  args.bias = l.vector(2);
  args.eps = static_cast<float>(read_attrs<LayerNormAttrs>("layer_norm", l.attrs()).eps);
  return [args, in = l.slot(0), scale, shift, out = l.output_slot(),
          scratch = l.workspace_offset()](const Run& run) {
    LayerNormArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    if (scale != kAbsent) now.scale = run.views[scale];
    if (shift != kAbsent) now.shift = run.views[shift];
    now.workspace = run.arena + scratch;
    layer_norm(now, run.kernels);
  };
}

}  // namespace

const Op op_layer_norm = {
    .name = "layer_norm",
    .inputs = {{"x"},
               {"weight", Op::Input::optional_weight},
               {"bias", Op::Input::optional_weight},
               {"scale", Op::Input::optional_value},
               {"shift", Op::Input::optional_value}},
    .check = [](const Attrs& attrs) { check_attrs<LayerNormAttrs>("layer_norm", attrs); },
    .infer = infer,
    .workspace = workspace,
    .lower = lower,
};

}  // namespace sdcore
