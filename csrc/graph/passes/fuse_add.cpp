#include <optional>

#include "graph/passes/passes.h"
#include "graph/passes/uses.h"

namespace sdcore {
namespace {

// Puts `other` into the epilogue of `node` if it fits there.
bool absorb(Node& node, ValueId other, const ValueTypes& types, ValueId sum) {
  if (!node.op->fuses_add || node.fused.residual != kAbsent) return false;
  const TensorType& wanted = types[static_cast<size_t>(sum)];
  const TensorType& given = types[static_cast<size_t>(other)];
  if (given.shape == wanted.shape) {
    node.fused.residual = other;
    return true;
  }
  const bool per_image = given.shape.size() == 2 && given.shape[0] == wanted.shape[0];
  if (!per_image || node.fused.image_bias != kAbsent || node.fused.activation != Activation::none) {
    return false;
  }
  node.fused.image_bias = other;
  return true;
}

// The node that can take the addition, and what it adds.
struct Choice {
  size_t place = 0, gone = 0;  // nodes: where the fused one goes, and which one goes away
  Node fused;
};

std::optional<Choice> choose(const Graph& graph, const Uses& uses, const ValueTypes& types,
                             size_t at) {
  const Node& add = graph.nodes[at];
  // The operand made last comes first, so that the other one exists by then.
  ValueId later = add.inputs[0], earlier = add.inputs[1];
  if (uses.producer_of(earlier) > uses.producer_of(later)) std::swap(later, earlier);
  for (const auto& [into, other] : {std::pair{later, earlier}, std::pair{earlier, later}}) {
    const int producer = uses.producer_of(into);
    if (producer < 0 || !uses.single(into) || into == other) continue;
    if (graph.value(other).kind == Value::Kind::weight) continue;
    const Shape& sum = types[static_cast<size_t>(add.output)].shape;
    if (types[static_cast<size_t>(into)].shape != sum) continue;
    Choice choice{at, static_cast<size_t>(producer), graph.nodes[static_cast<size_t>(producer)]};
    if (!absorb(choice.fused, other, types, add.output)) continue;
    choice.fused.output = add.output;
    // It runs where it did, or where the addition did if the other operand is made after it.
    if (uses.producer_of(other) < producer) std::swap(choice.place, choice.gone);
    return choice;
  }
  return std::nullopt;
}

}  // namespace

void fuse_add(Graph& graph, const ValueTypes& types) {
  Uses uses(graph);
  for (size_t at = 0; at < graph.nodes.size(); ++at) {
    if (graph.nodes[at].op != &op_add) continue;
    std::optional<Choice> choice = choose(graph, uses, types, at);
    if (!choice) continue;
    uses.producer[static_cast<size_t>(choice->fused.output)] = static_cast<int>(choice->place);
    graph.nodes[choice->place] = std::move(choice->fused);
    graph.nodes[choice->gone].op = nullptr;
  }
  erase_marked(graph);
}

}  // namespace sdcore
