// What the ops of token merging share.
#pragma once

#include "graph/ops/common.h"
#include "kernels/merging/merging.h"

namespace sdcore {

struct MergingAttrs {
  double ratio = 0.5;

  template <class F>
  void fields(F&& f) {
    f("ratio", ratio);
  }
};

inline MergingAttrs read_merging(const char* op, const Attrs& attrs) {
  const auto a = read_attrs<MergingAttrs>(op, attrs);
  require(a.ratio >= 0.0 && a.ratio <= 0.75, ErrorKind::invalid_argument, "[", op,
          "] ratio must be from 0 to 0.75, got ", a.ratio);
  return a;
}

}  // namespace sdcore
