// What passes and networks may ask of a linear layer.
#pragma once

#include "graph/graph.h"
#include "graph/weights.h"

namespace sdcore {

// Whether the network bears this layer's input in 8 bits.
bool allows_int8_activations(const Attrs& attrs);
// How it reads its matrix.
WeightForm linear_form(const Attrs& attrs, const Fused& fused);

}  // namespace sdcore
