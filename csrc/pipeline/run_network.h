// Running one network on arrays, and getting arrays that own their memory.
#pragma once

#include <cstring>
#include <map>
#include <memory>
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

// What the inputs of several runs have in common; see Steady.
inline std::unique_ptr<Steady> make_steady(const std::map<std::string, FloatArray>& arrays) {
  Steady::Inputs inputs;
  for (const auto& [name, array] : arrays) {
    const size_t bytes = array.values.size() * sizeof(float);
    Steady::Input input{array.shape, Buffer(bytes)};
    if (bytes > 0) std::memcpy(input.values.data(), array.values.data(), bytes);
    inputs.emplace(name, std::move(input));
  }
  return std::make_unique<Steady>(std::move(inputs));
}

// The other inputs of one run: dense arrays of the caller, f32 or i32 as the graph wants them.
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
                                                     const Observer& observer = {},
                                                     Steady* steady = nullptr) {
  const auto executable = network.executable(inputs.shapes, steady);
  const Plan& plan = executable->plan();
  std::map<std::string, FloatArray> results;
  OutputArrays outputs;
  for (const auto& [name, id] : plan.graph.outputs) {
    FloatArray& result = results[name];
    result.shape = plan.types[static_cast<size_t>(id)].shape;
    result.values.resize(static_cast<size_t>(element_count(result.shape)));
    outputs[name] = result.values.data();
  }
  network.run(inputs.shapes, inputs.arrays, outputs, observer, steady);
  return results;
}

// The one output of a network of a pipeline; `name` is for errors.
inline FloatArray run_to(Network& network, const NetworkInputs& inputs, const std::string& name,
                         const Observer& observer, Steady* steady = nullptr) {
  auto outputs = run_network(network, inputs, observer, steady);
  require(outputs.size() == 1, ErrorKind::unsupported_model, "[generate] the ", name, " has ",
          outputs.size(), " outputs, and a pipeline takes one");
  return std::move(outputs.begin()->second);
}

inline void require_shape(const FloatArray& out, const Shape& expected, const std::string& name) {
  require(out.shape == expected, ErrorKind::unsupported_model, "[generate] the ", name, " gives ",
          to_string(out.shape), " where the pipeline takes ", to_string(expected));
}

}  // namespace sdcore
