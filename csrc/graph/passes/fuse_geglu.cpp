#include "graph/op.h"
#include "graph/passes/passes.h"
#include "graph/passes/uses.h"

namespace sdcore {

void fuse_geglu(Graph& graph, int64_t multiple) {
  if (multiple == 0) return;
  Uses uses(graph);
  for (Node& node : graph.nodes) {
    if (node.op != &op_geglu) continue;
    const int before = uses.producer_of(node.inputs[0]);
    if (before < 0 || !uses.single(node.inputs[0])) continue;
    Node& producer = graph.nodes[static_cast<size_t>(before)];
    if (producer.op != &op_linear || graph.value(producer.inputs[1]).shape[0] % multiple != 0) {
      continue;
    }
    producer.fused.gated = true;
    producer.output = node.output;
    node.op = nullptr;
  }
  erase_marked(graph);
}

}  // namespace sdcore
