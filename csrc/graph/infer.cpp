#include "graph/infer.h"

#include "base/error.h"

namespace sdcore {
namespace {

// Far beyond any memory, so that sizes in bytes never overflow.
constexpr int64_t kMostElements = int64_t{1} << 48;

// "%7 = conv2d with conv_in.weight", so that a person finds the layer.
std::string describe(const Graph& graph, const Node& node) {
  std::string text = "%" + std::to_string(node.output) + " = " + node.op->name;
  for (const ValueId id : node.inputs) {
    if (id != kAbsent && graph.value(id).kind == Value::Kind::weight) {
      return text + " with " + graph.value(id).name;
    }
  }
  return text;
}

TensorType infer_node(const Graph& graph, const Node& node, const ValueTypes& types) {
  std::vector<TensorType> in;
  for (const ValueId id : node.inputs) {
    in.push_back(id == kAbsent ? TensorType{} : types[static_cast<size_t>(id)]);
  }
  try {
    TensorType out = node.op->infer(node, in);
    const int64_t count = element_count(out.shape);
    require(count > 0 && count <= kMostElements, ErrorKind::invalid_argument, "[", node.op->name,
            "] the result would be empty or too large: ", to_string(out.shape));
    return out;
  } catch (const Error& error) {
    throw Error(error.kind(), concat(error.what(), " (at ", describe(graph, node), ")"));
  }
}

}  // namespace

ValueTypes infer_types(const Graph& graph, const InputShapes& inputs) {
  ValueTypes types(graph.values.size());
  size_t used = 0;
  std::string known;
  for (size_t id = 0; id < types.size(); ++id) {
    const Value& value = graph.values[id];
    if (value.kind == Value::Kind::weight) types[id] = {value.shape, DType::f32};
    if (value.kind != Value::Kind::input) continue;
    const auto given = inputs.find(value.name);
    require(given != inputs.end(), ErrorKind::invalid_argument, "[graph] input '", value.name,
            "' is missing");
    require(element_count(given->second) > 0 && given->second.size() <= 4,
            ErrorKind::invalid_argument, "[graph] input '", value.name, "' cannot have the shape ",
            to_string(given->second));
    types[id] = {given->second, value.dtype};
    known += (known.empty() ? "" : ", ") + value.name;
    ++used;
  }
  require(used == inputs.size(), ErrorKind::invalid_argument,
          "[graph] there are inputs that the network does not have; it has ", known);
  for (const Node& node : graph.nodes) {
    types[static_cast<size_t>(node.output)] = infer_node(graph, node, types);
  }
  return types;
}

}  // namespace sdcore
