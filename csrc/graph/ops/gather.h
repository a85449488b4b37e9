// Ops that pick rows of a table by places that follow from sizes alone.
#pragma once

#include <memory>

#include "graph/ops/common.h"
#include "kernels/embedding/embedding.h"

namespace sdcore {

// The step that fills the output, of one image, with these rows of the table in input `table`.
inline Step lower_gather(const Lowering& l, size_t table, const std::vector<int32_t>& rows) {
  const auto count = static_cast<int64_t>(rows.size());
  const auto kept = l.constant(rows.data(), rows.size() * sizeof(int32_t));
  const View ids = dense_view(const_cast<void*>(kept.get()), DType::i32, 1, 1, count, 1);
  return [kept, ids, table = l.table(table), out = l.output_slot()](const Run& run) {
    View to = run.views[out];
    to.w *= to.h;
    to.h = 1;
    embedding({ids, table, to}, run.kernels);
  };
}

}  // namespace sdcore
