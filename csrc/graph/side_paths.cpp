#include "graph/side_paths.h"

#include <set>

#include "base/error.h"
#include "graph/op.h"

namespace sdcore {
namespace {

// plain + up(down(x)), where plain = op(x, weight, …).
ValueId beside(Graph& graph, ValueId plain, int64_t rank) {
  const Node node = graph.nodes.back();
  std::string module = graph.value(node.inputs[1]).name;
  if (module.ends_with(".weight")) module.resize(module.size() - 7);
  Shape shape = graph.value(node.inputs[1]).shape;
  const ValueId up = graph.add_weight(module + ".lora_up", {shape[0], rank});
  shape[0] = rank;
  const ValueId down = graph.add_weight(module + ".lora_down", std::move(shape));
  const ValueId low = graph.add_node(node.op->name, {node.inputs[0], down}, node.attrs);
  return graph.add_node(op_add.name, {plain, graph.add_node(op_linear.name, {low, up}, {})}, {});
}

}  // namespace

Graph add_side_paths(const Graph& graph, const std::map<std::string, int64_t>& ranks) {
  Graph result;
  std::vector<ValueId> ids;  // of the given graph's values in the result
  std::set<std::string> found;
  for (const Value& value : graph.values) {
    if (value.kind == Value::Kind::input) {
      ids.push_back(result.add_input(value.name, value.dtype));
      continue;
    }
    if (value.kind == Value::Kind::weight) {
      ids.push_back(result.add_weight(value.name, value.shape));
      continue;
    }
    const Node& node = graph.nodes[static_cast<size_t>(value.node)];
    std::vector<ValueId> inputs = node.inputs;
    for (ValueId& input : inputs) {
      if (input != kAbsent) input = ids[static_cast<size_t>(input)];
    }
    ValueId id = result.add_node(node.op->name, std::move(inputs), node.attrs);
    if (node.op == &op_linear || node.op == &op_conv2d) {
      const auto rank = ranks.find(graph.value(node.inputs[1]).name);
      if (rank != ranks.end()) {
        found.insert(rank->first);
        id = beside(result, id, rank->second);
      }
    }
    ids.push_back(id);
  }
  for (const auto& [name, id] : graph.outputs)
    result.add_output(name, ids[static_cast<size_t>(id)]);
  for (const auto& [name, rank] : ranks) {
    require(found.contains(name), ErrorKind::invalid_argument,
            "[graph] no linear or conv2d has the weight '", name, "'");
  }
  return result;
}

}  // namespace sdcore
