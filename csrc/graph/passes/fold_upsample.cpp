#include "graph/op.h"
#include "graph/ops/conv2d.h"
#include "graph/passes/passes.h"
#include "graph/passes/uses.h"

namespace sdcore {
namespace {

bool doubles(const ValueTypes& types, ValueId from, ValueId to) {
  if (types.empty()) return true;
  const Shape& small = types[static_cast<size_t>(from)].shape;
  const Shape& large = types[static_cast<size_t>(to)].shape;
  return large[1] == 2 * small[1] && large[2] == 2 * small[2];
}

}  // namespace

void fold_upsample(Graph& graph, const ValueTypes& types) {
  const Uses uses(graph);
  for (Node& node : graph.nodes) {
    if (node.op != &op_conv2d) continue;
    const ValueId image = node.inputs[0];
    const int before = uses.producer_of(image);
    if (before < 0 || !uses.single(image)) continue;
    Node& upsample = graph.nodes[static_cast<size_t>(before)];
    if (upsample.op != &op_upsample) continue;
    const ValueId small = upsample.inputs[0];
    if (!doubles(types, small, image) ||
        !keeps_size_3x3(node.attrs, graph.value(node.inputs[1]).shape)) {
      continue;
    }
    node.fused.upsampled = true;
    node.inputs[0] = small;
    upsample.op = nullptr;
  }
  erase_marked(graph);
}

}  // namespace sdcore
