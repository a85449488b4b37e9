// Rows of a table by index.
#pragma once

#include "base/view.h"
#include "kernels/context.h"
#include "quant/types.h"

namespace sdcore {

struct EmbeddingArgs {
  View ids;      // [n, 1, t, 1] i32
  Tensor table;  // [rows, c], any type
  View out;      // [n, 1, t, c]
};
// An id outside the table is an Error, found before anything is written.
void embedding(const EmbeddingArgs& args, const KernelContext& context);

}  // namespace sdcore
