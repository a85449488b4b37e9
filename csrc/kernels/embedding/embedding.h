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

// One token of each sequence.
struct TakeArgs {
  View in;     // [n, 1, t, c]
  View index;  // [n, 1, 1, 1] i32
  View out;    // [n, 1, 1, c]
};
// An index outside the sequence is an Error. On a GPU both are found when the run is over.
void take(const TakeArgs& args, const KernelContext& context);

}  // namespace sdcore
