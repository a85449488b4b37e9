// conv2d(x [n, h, w, c], weight [o, c, kh, kw], bias [o]) -> [n, h', w', o]
#include "kernels/conv2d/conv2d.h"

#include "graph/ops/common.h"
#include "graph/ops/conv2d.h"

namespace sdcore {
namespace {

struct Conv2dAttrs {
  int64_t stride = 1;
  std::vector<int64_t> padding = {0, 0, 0, 0};  // top, left, bottom, right

  template <class F>
  void fields(F&& f) {
    f("stride", stride);
    f("padding", padding);
  }
};

Conv2dAttrs read(const Attrs& attrs) { return read_attrs<Conv2dAttrs>("conv2d", attrs); }

void check(const Attrs& attrs) {
  const Conv2dAttrs a = read(attrs);
  require(a.stride >= 1 && a.stride <= 16, ErrorKind::invalid_argument,
          "[conv2d] stride must be between 1 and 16, got ", a.stride);
  require(a.padding.size() == 4, ErrorKind::invalid_argument,
          "[conv2d] padding is top, left, bottom, right, got ", to_string(a.padding));
  for (const int64_t p : a.padding) {
    require(p >= 0 && p <= 64, ErrorKind::invalid_argument,
            "[conv2d] padding must be between 0 and 64, got ", p);
  }
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  const Conv2dAttrs a = read(node.attrs);
  const Shape& weight = in[1].shape;
  require_rank("conv2d", "x", in[0], 4, 4);
  require_rank("conv2d", "weight", in[1], 4, 4);
  require_channels("conv2d", "x", in[0], weight[1]);
  const int64_t h = in[0].shape[1] + a.padding[0] + a.padding[2] - weight[2];
  const int64_t w = in[0].shape[2] + a.padding[1] + a.padding[3] - weight[3];
  require(h >= 0 && w >= 0, ErrorKind::invalid_argument, "[conv2d] an image of ",
          to_string(in[0].shape), " is smaller than the kernel ", to_string(weight));
  return {{in[0].shape[0], h / a.stride + 1, w / a.stride + 1, weight[0]}, in[0].dtype};
}

Conv2dArgs arguments(const Lowering& l) {
  const Conv2dAttrs a = read(l.attrs());
  Conv2dArgs args;
  args.in = l.view(0);
  args.out = l.output();
  args.kernel_h = static_cast<int>(l.weight_shape(1)[2]);
  args.kernel_w = static_cast<int>(l.weight_shape(1)[3]);
  args.stride = static_cast<int>(a.stride);
  args.pad_top = static_cast<int>(a.padding[0]);
  args.pad_left = static_cast<int>(a.padding[1]);
  args.upsampled = l.fused().upsampled;
  return args;
}

size_t workspace(const Lowering& l) { return conv2d_workspace(arguments(l), l.kernels()); }

Step lower(const Lowering& l) {
  Conv2dArgs args = arguments(l);
  args.weight = l.matrix(1, args.upsampled ? WeightForm::upsampled : WeightForm::plain);
  return [args, epilogue = EpilogueSlots(l, 2), in = l.slot(0), out = l.output_slot(),
          scratch = l.workspace_offset()](const Run& run) {
    Conv2dArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    now.epilogue = epilogue.resolve(run.views);
    now.workspace = run.arena + scratch;
    conv2d(now, run.kernels);
  };
}

double flops(const Node&, std::span<const TensorType> in, const TensorType& out) {
  return 2.0 * static_cast<double>(element_count(out.shape)) *
         static_cast<double>(element_count(in[1].shape) / in[1].shape[0]);
}

}  // namespace

bool keeps_size_3x3(const Attrs& attrs, const Shape& weight) {
  const Conv2dAttrs a = read(attrs);
  return a.stride == 1 && a.padding == std::vector<int64_t>{1, 1, 1, 1} && weight[2] == 3 &&
         weight[3] == 3;
}

const Op op_conv2d = {
    .name = "conv2d",
    .inputs = {{"x"}, {"weight", Op::Input::weight}, {"bias", Op::Input::optional_weight}},
    .check = check,
    .infer = infer,
    .workspace = workspace,
    .lower = lower,
    .wants_halo = [](const Lowering& l) { return conv2d_wants_halo(arguments(l), l.kernels()); },
    .fuses_activation = true,
    .fuses_add = true,
    .flops = flops,
};

}  // namespace sdcore
