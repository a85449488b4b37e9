// Running one network on arrays, and getting arrays that own their memory.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/network.h"

namespace sdcore {

struct FloatArray {
  Shape shape;
  std::vector<float> values;
};

// The inputs of one run: dense arrays of the caller, f32 or i32 as the graph wants them.
struct NetworkInputs {
  InputShapes shapes;
  InputArrays arrays;

  void add(const std::string& name, Shape shape, const void* data) {
    shapes[name] = std::move(shape);
    arrays[name] = data;
  }
};

inline std::set<std::string, std::less<>> input_names(const Graph& graph) {
  std::set<std::string, std::less<>> names;
  for (const Value& value : graph.values) {
    if (value.kind == Value::Kind::input) names.insert(value.name);
  }
  return names;
}

inline std::map<std::string, FloatArray> run_network(Network& network, const NetworkInputs& inputs,
                                                     const Observer& observer = {}) {
  const auto executable = network.executable(inputs.shapes);
  const Plan& plan = executable->plan();
  std::map<std::string, FloatArray> results;
  OutputArrays outputs;
  for (const auto& [name, id] : plan.graph.outputs) {
    FloatArray& result = results[name];
    result.shape = plan.types[static_cast<size_t>(id)].shape;
    result.values.resize(static_cast<size_t>(element_count(result.shape)));
    outputs[name] = result.values.data();
  }
  network.run(inputs.shapes, inputs.arrays, outputs, observer);
  return results;
}

// The one output of a network of a pipeline; `name` is for errors.
inline FloatArray run_to(Network& network, const NetworkInputs& inputs, const std::string& name,
                         const Observer& observer) {
  auto outputs = run_network(network, inputs, observer);
  require(outputs.size() == 1, ErrorKind::unsupported_model, "[generate] the ", name, " has ",
          outputs.size(), " outputs, and a pipeline takes one");
  return std::move(outputs.begin()->second);
}

inline void require_shape(const FloatArray& out, const Shape& expected, const std::string& name) {
  require(out.shape == expected, ErrorKind::unsupported_model, "[generate] the ", name, " gives ",
          to_string(out.shape), " where the pipeline takes ", to_string(expected));
}

}  // namespace sdcore
