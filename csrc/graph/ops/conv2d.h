// What passes ask of convolutions.
#pragma once

#include "graph/graph.h"

namespace sdcore {

// Whether it is a 3x3 of stride and padding 1.
bool keeps_size_3x3(const Attrs& attrs, const Shape& weight);

}  // namespace sdcore
