#include <algorithm>

#include "base/error.h"
#include "graph/passes/passes.h"
#include "graph/passes/uses.h"

namespace sdcore {
namespace {

void mark_inputs(Graph& graph, const InputNames& steady) {
  size_t found = 0;
  for (Value& value : graph.values) {
    value.steady = value.kind == Value::Kind::weight ||
                   (value.kind == Value::Kind::input && steady.contains(value.name));
    found += value.kind == Value::Kind::input && value.steady ? 1 : 0;
  }
  require(found == steady.size(), ErrorKind::invalid_argument,
          "[graph] there are steady inputs that the network does not have");
}

}  // namespace

void steady_first(Graph& graph, const InputNames& steady) {
  mark_inputs(graph, steady);
  for (const Node& node : graph.nodes) {
    bool all = true;
    for_each_input(node, [&](ValueId id) { all = all && graph.value(id).steady; });
    graph.values[static_cast<size_t>(node.output)].steady = all;
  }
  std::ranges::stable_partition(graph.nodes,
                                [&](const Node& node) { return graph.value(node.output).steady; });
}

}  // namespace sdcore
