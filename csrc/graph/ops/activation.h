#pragma once

#include "graph/op.h"

namespace sdcore {

// The kind that an `activation` node names; passes fold it into the node before.
Activation activation_kind(const Attrs& attrs);

}  // namespace sdcore
