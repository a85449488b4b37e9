#include "graph/passes/passes.h"
#include "graph/passes/uses.h"

namespace sdcore {
namespace {

// Whether a kernel makes the op's output.
bool writes(const Op& op) { return !op.is_concat && !op.is_view; }

}  // namespace

void copy_into_concat(Graph& graph, ValueTypes& types) {
  const Uses uses(graph);
  std::vector<bool> claimed(graph.values.size());
  std::vector<Node> nodes;
  for (Node& node : graph.nodes) {
    for (size_t i = 0; node.op->is_concat && i < node.inputs.size(); ++i) {
      const ValueId root = behind_views(graph, uses, node.inputs[i]);
      const int producer = uses.producer_of(root);
      const bool in_place = producer >= 0 && !claimed[static_cast<size_t>(root)] &&
                            !uses.is_output[static_cast<size_t>(root)] &&
                            graph.value(root).steady == graph.value(node.output).steady &&
                            writes(*graph.nodes[static_cast<size_t>(producer)].op);
      if (in_place) {
        claimed[static_cast<size_t>(root)] = true;
        continue;
      }
      const auto copy = static_cast<ValueId>(graph.values.size());
      graph.values.push_back({.steady = graph.value(node.output).steady});
      types.push_back(types[static_cast<size_t>(node.inputs[i])]);
      nodes.push_back(
          {&op_activation, {node.inputs[i]}, {{"kind", std::string("none")}}, copy, {}});
      node.inputs[i] = copy;
    }
    nodes.push_back(node);
  }
  graph.nodes = std::move(nodes);
}

}  // namespace sdcore
