#include "graph/passes/passes.h"
#include "graph/passes/uses.h"

namespace sdcore {

void remove_dead(Graph& graph) {
  std::vector<bool> needed(graph.values.size());
  for (const auto& [name, id] : graph.outputs) needed[static_cast<size_t>(id)] = true;
  std::vector<Node> kept;
  for (auto node = graph.nodes.rbegin(); node != graph.nodes.rend(); ++node) {
    if (!needed[static_cast<size_t>(node->output)]) continue;
    for_each_input(*node, [&](ValueId id) { needed[static_cast<size_t>(id)] = true; });
    kept.push_back(std::move(*node));
  }
  graph.nodes.assign(std::make_move_iterator(kept.rbegin()), std::make_move_iterator(kept.rend()));
}

}  // namespace sdcore
