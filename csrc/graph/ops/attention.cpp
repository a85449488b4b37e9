// attention(q [n, tq, c], k [n, tk, c], v [n, tk, c], relative [1, tq + tk - 1, heads],
// mask [n, tk], heads) -> [n, tq, c]; scale 0 means 1/sqrt(c/heads). To the score of query i and
// key j, `relative` adds its row i - j + tk - 1 and `mask` its number j.
#include "kernels/attention/attention.h"

#include <cmath>

#include "graph/ops/common.h"

namespace sdcore {
namespace {

struct AttentionAttrs {
  int64_t heads = 1;
  double scale = 0.0;
  bool causal = false;

  template <class F>
  void fields(F&& f) {
    f("heads", heads);
    f("scale", scale);
    f("causal", causal);
  }
};

AttentionAttrs read(const Attrs& attrs) { return read_attrs<AttentionAttrs>("attention", attrs); }

void check(const Attrs& attrs) {
  const AttentionAttrs a = read(attrs);
  require(a.heads >= 1, ErrorKind::invalid_argument, "[attention] heads must be positive, got ",
          a.heads);
}

bool given(const Node& node, size_t input) {
  return input < node.inputs.size() && node.inputs[input] != kAbsent;
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  const AttentionAttrs a = read(node.attrs);
  for (size_t i = 0; i < 3; ++i) require_rank("attention", node.op->inputs[i].name, in[i], 3, 3);
  const int64_t c = channels(in[0]);
  require_channels("attention", "k", in[1], c);
  require(in[2].shape == in[1].shape && in[1].shape[0] == in[0].shape[0],
          ErrorKind::invalid_argument,
          "[attention] q, k and v do not fit: ", to_string(in[0].shape), ", ",
          to_string(in[1].shape), ", ", to_string(in[2].shape));
  require(c % a.heads == 0, ErrorKind::invalid_argument,
          "[attention] channels must divide by heads, got ", c, " and ", a.heads);
  const int64_t tk = in[1].shape[1];
  if (given(node, 3)) {
    require(in[3].shape == Shape({1, in[0].shape[1] + tk - 1, a.heads}),
            ErrorKind::invalid_argument,
            "[attention] relative must be [1, tq + tk - 1, heads], got ", to_string(in[3].shape));
  }
  if (given(node, 4)) {
    require(in[4].shape == Shape({in[1].shape[0], tk}), ErrorKind::invalid_argument,
            "[attention] mask must be [n, tk], one number a key, got ", to_string(in[4].shape),
            " for keys ", to_string(in[1].shape));
  }
  return in[0];
}

AttentionArgs arguments(const Lowering& l) {
  const AttentionAttrs a = read(l.attrs());
  AttentionArgs args;
  args.q = l.view(0);
  args.k = l.view(1);
  args.v = l.view(2);
  args.out = l.output();
  if (l.has(3)) args.relative = l.view(3);
  if (l.has(4)) args.mask = l.view(4);
  args.heads = static_cast<int>(a.heads);
  args.causal = a.causal;
  const double head_size = static_cast<double>(args.q.c) / static_cast<double>(a.heads);
  args.scale = static_cast<float>(a.scale != 0.0 ? a.scale : 1.0 / std::sqrt(head_size));
  return args;
}

size_t workspace(const Lowering& l) { return attention_workspace(arguments(l), l.kernels()); }

Step lower(const Lowering& l) {
  const int relative = l.has(3) ? l.slot(3) : kAbsent, mask = l.has(4) ? l.slot(4) : kAbsent;
  return [args = arguments(l), q = l.slot(0), k = l.slot(1), v = l.slot(2), relative, mask,
          out = l.output_slot(), scratch = l.workspace_offset()](const Run& run) {
    AttentionArgs now = args;
    now.q = run.views[q];
    now.k = run.views[k];
    now.v = run.views[v];
    now.out = run.views[out];
    if (relative != kAbsent) now.relative = run.views[relative];
    if (mask != kAbsent) now.mask = run.views[mask];
    now.workspace = run.arena + scratch;
    attention(now, run.kernels);
  };
}

double flops(const Node&, std::span<const TensorType> in, const TensorType&) {
  return 4.0 * static_cast<double>(element_count(in[0].shape)) *
         static_cast<double>(in[1].shape[1]);
}

}  // namespace

const Op op_attention = {
    .name = "attention",
    .inputs = {{"q"},
               {"k"},
               {"v"},
               {"relative", Op::Input::optional_value},
               {"mask", Op::Input::optional_value}},
    .check = check,
    .infer = infer,
    .workspace = workspace,
    .lower = lower,
    .flops = flops,
};

}  // namespace sdcore
