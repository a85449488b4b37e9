// group_moments(x [n, ..., c], groups) -> [n, 2 groups]: of each group over all pixels of an image,
// means, then variances, for group_norm
#include "graph/ops/common.h"
#include "kernels/norm/norm.h"

namespace sdcore {
namespace {

struct GroupMomentsAttrs {
  int64_t groups = 32;

  template <class F>
  void fields(F&& f) {
    f("groups", groups);
  }
};

GroupMomentsAttrs read(const Attrs& attrs) {
  return read_attrs<GroupMomentsAttrs>("group_moments", attrs);
}

void check(const Attrs& attrs) {
  const int64_t groups = read(attrs).groups;
  require(groups >= 1, ErrorKind::invalid_argument, "[group_moments] groups must be positive, got ",
          groups);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("group_moments", "x", in[0], 3, 4);
  const int64_t groups = read(node.attrs).groups;
  require(channels(in[0]) % groups == 0, ErrorKind::invalid_argument,
          "[group_moments] channels must divide by groups, got ", channels(in[0]), " and ", groups);
  return {{in[0].shape[0], 2 * groups}, in[0].dtype};
}

GroupMomentsArgs arguments(const Lowering& l) {
  GroupMomentsArgs args;
  args.in = l.view(0);
  args.groups = static_cast<int>(read(l.attrs()).groups);
  return args;
}

size_t workspace(const Lowering& l) { return group_moments_workspace(arguments(l), l.kernels()); }

Step lower(const Lowering& l) {
  return [args = arguments(l), in = l.slot(0), out = l.output_slot(),
          scratch = l.workspace_offset()](const Run& run) {
    GroupMomentsArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    now.workspace = run.arena + scratch;
    group_moments(now, run.kernels);
  };
}

}  // namespace

const Op op_group_moments = {
    .name = "group_moments",
    .inputs = {{"x"}},
    .check = check,
    .infer = infer,
    .workspace = workspace,
    .lower = lower,
};

}  // namespace sdcore
