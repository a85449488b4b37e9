// Sizes of every value, from those of the inputs.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "graph/op.h"

namespace sdcore {

using ValueTypes = std::vector<TensorType>;  // by ValueId
using InputShapes = std::map<std::string, Shape>;
using InputNames = std::set<std::string>;

// Throws Error(invalid_argument) naming the node and the weight when sizes do not fit, or when an
// input is missing or unknown. Logical types: f32 for every activation, whatever it will be held
// in.
ValueTypes infer_types(const Graph& graph, const InputShapes& inputs);

}  // namespace sdcore
