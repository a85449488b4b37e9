// group_norm(x [n, ..., c], weight [c], bias [c], moments [n, 2 groups]) -> the same sizes. Where
// `moments`, as group_moments gives them, are those of a larger image, x is a part of that.
#include "graph/ops/common.h"
#include "kernels/norm/norm.h"

namespace sdcore {
namespace {

struct GroupNormAttrs {
  int64_t groups = 32;
  double eps = 1e-5;

  template <class F>
  void fields(F&& f) {
    f("groups", groups);
    f("eps", eps);
  }
};

GroupNormAttrs read(const Attrs& attrs) { return read_attrs<GroupNormAttrs>("group_norm", attrs); }

void check(const Attrs& attrs) {
  const GroupNormAttrs a = read(attrs);
  require(a.groups >= 1, ErrorKind::invalid_argument, "[group_norm] groups must be positive, got ",
          a.groups);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  const GroupNormAttrs a = read(node.attrs);
  require_rank("group_norm", "x", in[0], 3, 4);
  const int64_t c = channels(in[0]);
  require(c % a.groups == 0, ErrorKind::invalid_argument,
          "[group_norm] channels must divide by groups, got ", c, " and ", a.groups);
  require_channels("group_norm", "weight", in[1], c);
  require_channels("group_norm", "bias", in[2], c);
  if (in.size() > 3 && node.inputs[3] != kAbsent) {
    require(in[3].shape == Shape({in[0].shape[0], 2 * a.groups}), ErrorKind::invalid_argument,
            "[group_norm] moments must be [n, 2 * groups], got ", to_string(in[3].shape));
  }
  return in[0];
}

GroupNormArgs arguments(const Lowering& l) {
  const GroupNormAttrs a = read(l.attrs());
  GroupNormArgs args;
  args.in = l.view(0);
  args.out = l.output();
  args.groups = static_cast<int>(a.groups);
  args.eps = static_cast<float>(a.eps);
  args.activation = l.fused().activation;
  if (l.has(3)) args.moments = l.view(3);
  return args;
}

size_t workspace(const Lowering& l) { return group_norm_workspace(arguments(l), l.kernels()); }

Step lower(const Lowering& l) {
  GroupNormArgs args = arguments(l);
  args.weight = l.vector(1);
  args.bias = l.vector(2);
  const int moments = l.has(3) ? l.slot(3) : kAbsent;
  return [args, in = l.slot(0), moments, out = l.output_slot(),
          scratch = l.workspace_offset()](const Run& run) {
    GroupNormArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    if (moments != kAbsent) now.moments = run.views[moments];
    now.workspace = run.arena + scratch;
    group_norm(now, run.kernels);
  };
}

}  // namespace

const Op op_group_norm = {
    .name = "group_norm",
    .inputs = {{"x"},
               {"weight", Op::Input::weight},
               {"bias", Op::Input::weight},
               {"moments", Op::Input::optional_value, true}},
    .check = check,
    .infer = infer,
    .workspace = workspace,
    .lower = lower,
    .writes_halo = true,
    .in_place = true,
    .fuses_activation = true,
};

}  // namespace sdcore
