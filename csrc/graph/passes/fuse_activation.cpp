#include "graph/ops/activation.h"
#include "graph/passes/passes.h"
#include "graph/passes/uses.h"

namespace sdcore {

void fuse_activation(Graph& graph) {
  Uses uses(graph);
  for (Node& node : graph.nodes) {
    if (node.op != &op_activation) continue;
    const int before = uses.producer_of(node.inputs[0]);
    if (before < 0 || !uses.single(node.inputs[0])) continue;
    Node& producer = graph.nodes[static_cast<size_t>(before)];
    // An activation comes after the image bias and before the residual.
    if (!producer.op->fuses_activation || producer.fused.activation != Activation::none ||
        producer.fused.residual != kAbsent) {
      continue;
    }
    producer.fused.activation = activation_kind(node.attrs);
    producer.output = node.output;
    uses.producer[static_cast<size_t>(node.output)] = before;
    node.op = nullptr;
  }
  erase_marked(graph);
}

}  // namespace sdcore
