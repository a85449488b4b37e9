// Low-rank additions to weights that stay as they are (LoRA, Hu et al. 2021): beside W·x runs
// up·(down·x), so that quantized weights keep their blocks.
#pragma once

#include "graph/graph.h"

namespace sdcore {

// The graph with a path beside every op that multiplies by one of these weights; `ranks` is by
// weight. "a.weight" gains "a.lora_down" [rank, in] (of a convolution [rank, in, kh, kw]) and
// "a.lora_up" [out, rank]. Throws Error(invalid_argument) for a weight that no linear or conv2d
// has.
Graph add_side_paths(const Graph& graph, const std::map<std::string, int64_t>& ranks);

}  // namespace sdcore
