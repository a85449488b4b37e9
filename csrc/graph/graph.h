// A network as a value: ops over named inputs and named weights. It holds no sizes of activations
// (those appear at compile), no pointers and no code, so it can be printed, saved, compared and
// sent anywhere.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/shape.h"
#include "base/view.h"
#include "kernels/context.h"

namespace sdcore {

struct Op;

using ValueId = int32_t;
inline constexpr ValueId kAbsent = -1;  // an optional input that is not given

using Attr = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>>;
using Attrs = std::map<std::string, Attr, std::less<>>;

struct Value {
  enum class Kind : uint8_t { input, weight, node };
  Kind kind = Kind::node;
  std::string name = {};     // inputs and weights
  Shape shape = {};          // weights
  DType dtype = DType::f32;  // inputs: f32 or i32
  int node = -1;             // nodes: index of the producer
  // Whether it is the same in several runs; told at compile, and never part of a saved graph.
  bool steady = false;
};

// What compile folds into the node before it, where that node's kernel can do it on the way out;
// never part of a saved graph.
struct Fused {
  bool upsampled = false;        // the convolution's input counts at twice its size; before all
  bool gated = false;            // the product's first half times gelu of its second; first of all
  ValueId image_bias = kAbsent;  // [n, c], added before the activation
  Activation activation = Activation::none;
  ValueId residual = kAbsent;  // added last
};

struct Node {
  const Op* op = nullptr;
  std::vector<ValueId> inputs;
  Attrs attrs;
  ValueId output = kAbsent;
  Fused fused;
};

struct Graph {
  std::vector<Value> values;
  std::vector<Node> nodes;  // in an order in which they can run
  std::vector<std::pair<std::string, ValueId>> outputs;
  std::map<std::string, ValueId, std::less<>> weight_ids;

  ValueId add_input(std::string name, DType dtype);
  // Asking again for a weight gives the same value; with another shape it is an error.
  ValueId add_weight(std::string name, Shape shape);
  // Checks the number of inputs and the attributes; throws Error naming the op.
  ValueId add_node(std::string_view op, std::vector<ValueId> inputs, Attrs attrs);
  void add_output(std::string name, ValueId value);

  const Value& value(ValueId id) const { return values[static_cast<size_t>(id)]; }
};

// Throws Error(internal) unless every id is in range, every value is made before it is used and
// outputs exist: what a graph must be between any two passes.
void check_graph(const Graph& graph);

// The graph as text, one line a value, and back. parse_graph accepts what print_graph writes and
// throws Error(checkpoint), naming the line, for anything else.
std::string print_graph(const Graph& graph);
Graph parse_graph(std::string_view text);

}  // namespace sdcore
