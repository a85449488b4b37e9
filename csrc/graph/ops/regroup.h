// Ops that copy the numbers of each image as they lie, under another division into tokens and
// channels.
#pragma once

#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {

// Only a single token can be cut: those of another image may lie apart.
inline View with_tokens(View view, int64_t tokens) {
  if (view.w == tokens) return view;
  view.c /= tokens;
  view.w = tokens;
  view.stride_w = view.c;
  return view;
}

// `tokens` of both sides; one of them has one.
inline Step lower_regroup(const Lowering& l, int64_t tokens) {
  return [tokens, in = l.slot(0), out = l.output_slot()](const Run& run) {
    unary({with_tokens(run.views[in], tokens), with_tokens(run.views[out], tokens)}, run.kernels);
  };
}

}  // namespace sdcore
