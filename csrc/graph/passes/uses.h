// Who makes and who reads what: shared by passes and by the plan.
#pragma once

#include <vector>

#include "graph/graph.h"
#include "graph/op.h"

namespace sdcore {

template <class F>
void for_each_input(const Node& node, F&& f) {
  for (const ValueId id : node.inputs) {
    if (id != kAbsent) f(id);
  }
  if (node.fused.image_bias != kAbsent) f(node.fused.image_bias);
  if (node.fused.residual != kAbsent) f(node.fused.residual);
}

struct Uses {
  explicit Uses(const Graph& graph)
      : readers(graph.values.size()),
        producer(graph.values.size(), -1),
        is_output(graph.values.size()) {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      for_each_input(graph.nodes[i], [&](ValueId id) {
        readers[static_cast<size_t>(id)].push_back(static_cast<int>(i));
      });
      producer[static_cast<size_t>(graph.nodes[i].output)] = static_cast<int>(i);
    }
    for (const auto& [name, id] : graph.outputs) is_output[static_cast<size_t>(id)] = true;
  }
  const std::vector<int>& readers_of(ValueId id) const { return readers[static_cast<size_t>(id)]; }
  int producer_of(ValueId id) const { return producer[static_cast<size_t>(id)]; }
  // Read by exactly one node and not handed out.
  bool single(ValueId id) const {
    return readers_of(id).size() == 1 && !is_output[static_cast<size_t>(id)];
  }

  std::vector<std::vector<int>> readers;  // indices of nodes, once per input
  std::vector<int> producer;              // index of the node that makes it, or -1
  std::vector<bool> is_output;
};

// The value whose whole memory `id` shows: `id` itself, or what a chain of views begins with.
inline ValueId behind_views(const Graph& graph, const Uses& uses, ValueId id) {
  for (int at; (at = uses.producer_of(id)) >= 0;) {
    const Node& node = graph.nodes[static_cast<size_t>(at)];
    if (!node.op->is_view || node.op->first_pixel) break;
    id = node.inputs[0];
  }
  return id;
}

inline void erase_marked(Graph& graph) {
  std::erase_if(graph.nodes, [](const Node& node) { return node.op == nullptr; });
}

}  // namespace sdcore
