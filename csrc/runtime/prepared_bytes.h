// How much memory weights take once they are prepared, from their types alone.
#pragma once

#include "runtime/network.h"

namespace sdcore {

// Bytes of a graph's weights, each counted once in every form that a node reads it in; what stays
// as it is stored counts too, and what is not among the types as if it were stored as `dtype`. Of a
// plan's graph that is what an executable prepares; of another one, as if every upsample that can
// be folded doubled its image. `gpu` null: this processor.
size_t prepared_bytes(const Graph& graph, const WeightTypes& types, DType dtype, Isa isa,
                      gpu::Device* gpu = nullptr);
size_t prepared_bytes(const Plan& plan, const WeightTypes& types, DType dtype, Isa isa,
                      gpu::Device* gpu = nullptr);

}  // namespace sdcore
