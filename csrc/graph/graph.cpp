#include "graph/graph.h"

#include "base/error.h"
#include "graph/op.h"

namespace sdcore {
namespace {

ValueId append(Graph& graph, Value value) {
  graph.values.push_back(std::move(value));
  return static_cast<ValueId>(graph.values.size() - 1);
}

void check_inputs(const Graph& graph, const Op& op, const std::vector<ValueId>& inputs) {
  const size_t most = op.inputs.size();
  require(op.variadic || inputs.size() <= most, ErrorKind::invalid_argument, "[", op.name,
          "] takes at most ", most, " inputs, got ", inputs.size());
  for (size_t i = 0; i < std::max(inputs.size(), most); ++i) {
    const Op::Input& wanted = op.inputs[std::min(i, most - 1)];
    const ValueId id = i < inputs.size() ? inputs[i] : kAbsent;
    if (id == kAbsent) {
      require(wanted.kind == Op::Input::optional_value || wanted.kind == Op::Input::optional_weight,
              ErrorKind::invalid_argument, "[", op.name, "] input '", wanted.name, "' is missing");
      continue;
    }
    require(id >= 0 && static_cast<size_t>(id) < graph.values.size(), ErrorKind::invalid_argument,
            "[", op.name, "] input '", wanted.name, "' is not a value of this graph");
    require(wanted.kind == Op::Input::value || wanted.kind == Op::Input::optional_value ||
                graph.value(id).kind == Value::Kind::weight,
            ErrorKind::invalid_argument, "[", op.name, "] input '", wanted.name,
            "' must be a weight");
  }
}

}  // namespace

ValueId Graph::add_input(std::string name, DType dtype) {
  for (const Value& value : values) {
    require(value.kind != Value::Kind::input || value.name != name, ErrorKind::invalid_argument,
            "[graph] input '", name, "' exists already");
  }
  return append(*this, {.kind = Value::Kind::input, .name = std::move(name), .dtype = dtype});
}

ValueId Graph::add_weight(std::string name, Shape shape) {
  require(element_count(shape) > 0, ErrorKind::invalid_argument, "[graph] weight '", name,
          "' cannot have the shape ", to_string(shape));
  if (const auto found = weight_ids.find(name); found != weight_ids.end()) {
    const Shape& used = value(found->second).shape;
    require(used == shape, ErrorKind::invalid_argument, "[graph] weight '", name, "' is used as ",
            to_string(used), " and as ", to_string(shape));
    return found->second;
  }
  const ValueId id = append(
      *this, {.kind = Value::Kind::weight, .name = std::move(name), .shape = std::move(shape)});
  weight_ids.emplace(value(id).name, id);
  return id;
}

ValueId Graph::add_node(std::string_view op_name, std::vector<ValueId> inputs, Attrs attrs) {
  const Op& op = find_op(op_name);
  check_inputs(*this, op, inputs);
  op.check(attrs);
  const ValueId output =
      append(*this, {.kind = Value::Kind::node, .node = static_cast<int>(nodes.size())});
  nodes.push_back({&op, std::move(inputs), std::move(attrs), output, {}});
  return output;
}

void Graph::add_output(std::string name, ValueId value) {
  require(value >= 0 && static_cast<size_t>(value) < values.size() &&
              this->value(value).kind == Value::Kind::node,
          ErrorKind::invalid_argument, "[graph] output '", name, "' must be the result of an op");
  outputs.emplace_back(std::move(name), value);
}

void check_graph(const Graph& graph) {
  std::vector<bool> made(graph.values.size());
  for (size_t i = 0; i < made.size(); ++i) made[i] = graph.values[i].kind != Value::Kind::node;
  const auto expect_made = [&](ValueId id, const char* what) {
    require(id >= 0 && static_cast<size_t>(id) < made.size() && made[static_cast<size_t>(id)],
            ErrorKind::internal, "[graph] ", what, " uses a value before it is made");
  };
  for (const Node& node : graph.nodes) {
    for (const ValueId input : node.inputs) {
      if (input != kAbsent) expect_made(input, node.op->name);
    }
    if (node.fused.image_bias != kAbsent) expect_made(node.fused.image_bias, node.op->name);
    if (node.fused.residual != kAbsent) expect_made(node.fused.residual, node.op->name);
    require(node.output >= 0 && static_cast<size_t>(node.output) < made.size() &&
                !made[static_cast<size_t>(node.output)],
            ErrorKind::internal, "[graph] ", node.op->name, " makes a value twice");
    made[static_cast<size_t>(node.output)] = true;
  }
  for (const auto& [name, id] : graph.outputs) expect_made(id, "an output");
}

}  // namespace sdcore
