// add, mul and prelu: two values of the same sizes, or the second repeated over the first's pixels
// or images.
#pragma once

#include "graph/ops/common.h"
#include "kernels/elementwise/elementwise.h"

namespace sdcore {

inline TensorType infer_binary(const Node& node, std::span<const TensorType> in) {
  const View a = view_of(in[0]);
  const View b = view_of(in[1]);
  const auto fits = [](int64_t size, int64_t of) { return size == of || size == 1; };
  require(b.c == a.c && fits(b.n, a.n) && fits(b.h, a.h) && fits(b.w, a.w),
          ErrorKind::invalid_argument, "[", node.op->name, "] cannot combine ",
          to_string(in[0].shape), " and ", to_string(in[1].shape));
  return in[0];
}

template <BinaryOp kOp>
Step lower_binary(const Lowering& l) {
  return [a = l.slot(0), b = l.slot(1), out = l.output_slot()](const Run& run) {
    binary({run.views[a], run.views[b], run.views[out], kOp}, run.kernels);
  };
}

}  // namespace sdcore
