// Graphs: built from Python, printed, parsed, planned.
#include "graph/graph.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/gguf_metadata.h"
#include "bindings/options.h"
#include "graph/model_file.h"
#include "graph/op.h"
#include "graph/plan.h"
#include "graph/side_paths.h"
#include "runtime/prepared_bytes.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

Attr to_attr(const std::string& name, const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>();
  if (py::isinstance<py::int_>(value)) return value.cast<int64_t>();
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  if (py::isinstance<py::str>(value)) return value.cast<std::string>();
  if (py::isinstance<py::sequence>(value)) return value.cast<std::vector<int64_t>>();
  fail(ErrorKind::invalid_argument, "[graph] attribute '", name,
       "' must be a bool, a number, a string or a list of whole numbers");
}

ValueId add_node(Graph& graph, const std::string& op,
                 const std::vector<std::optional<ValueId>>& inputs, const py::kwargs& attrs) {
  std::vector<ValueId> ids;
  for (const auto& id : inputs) ids.push_back(id.value_or(kAbsent));
  Attrs converted;
  for (const auto& [key, value] : attrs) {
    const auto name = key.cast<std::string>();
    converted[name] = to_attr(name, value);
  }
  return graph.add_node(op, std::move(ids), std::move(converted));
}

py::dict weights_of(const Graph& graph) {
  py::dict shapes;
  for (const Value& value : graph.values) {
    if (value.kind == Value::Kind::weight) {
      shapes[py::str(value.name)] = py::tuple(py::cast(value.shape));
    }
  }
  return shapes;
}

py::dict plan(const Graph& graph, const InputShapes& shapes, const std::string& dtype,
              const std::optional<std::string>& isa, const std::string& device,
              const InputNames& steady, const std::optional<TypeNames>& types) {
  const DType activations = activation_dtype(dtype);
  const Isa level = isa_or_default(isa);
  gpu::Device* gpu = device_of(device);
  const Plan made = make_plan(graph, shapes, activations, level, gpu, steady);
  double flops = 0.0;
  for (const Node& node : made.graph.nodes) {
    if (!node.op->flops) continue;
    std::vector<TensorType> in;
    for (const ValueId id : node.inputs) {
      in.push_back(id == kAbsent ? TensorType{} : made.types[static_cast<size_t>(id)]);
    }
    flops += node.op->flops(node, in, made.types[static_cast<size_t>(node.output)]);
  }
  py::dict outputs;
  for (const auto& [name, id] : made.graph.outputs) {
    outputs[py::str(name)] = py::tuple(py::cast(made.types[static_cast<size_t>(id)].shape));
  }
  py::dict result;
  result["arena_bytes"] = made.arena_bytes;
  result["kept_bytes"] = made.kept_bytes;
  result["steps"] = made.graph.nodes.size();
  result["steady_steps"] = made.steady_nodes;
  result["flops"] = flops;
  result["outputs"] = outputs;
  if (types) {
    result["weight_bytes"] = prepared_bytes(made, weight_types(*types), activations, level, gpu);
  }
  return result;
}

size_t weight_bytes(const Graph& graph, const TypeNames& types, const std::string& dtype,
                    const std::optional<std::string>& isa, const std::string& device) {
  return prepared_bytes(graph, weight_types(types), activation_dtype(dtype), isa_or_default(isa),
                        device_of(device));
}

// graphs: name -> (Graph, {weight: Tensor})
void save(const std::filesystem::path& path, const py::dict& graphs, const py::dict& metadata) {
  ModelFile model;
  model.metadata = metadata_from_python(metadata);
  for (const auto& [name, pair] : graphs) {
    const auto stored = pair.cast<std::pair<Graph, std::map<std::string, Tensor, std::less<>>>>();
    model.graphs[name.cast<std::string>()] = {stored.first, stored.second};
  }
  const py::gil_scoped_release unlocked;
  save_model(path, model);
}

py::tuple load(const std::filesystem::path& path) {
  const ModelFile model = load_model(path);
  py::dict graphs;
  for (const auto& [name, stored] : model.graphs) {
    graphs[py::str(name)] = py::make_tuple(stored.graph, stored.weights);
  }
  return py::make_tuple(graphs, metadata_to_python(model.metadata));
}

}  // namespace

void init_graph(py::module_& m) {
  py::class_<Graph>(m, "Graph", "A network as a value: ops over named inputs and named weights.")
      .def(py::init<>())
      .def(
          "input",
          [](Graph& graph, std::string name, const std::string& dtype) {
            require(dtype == "f32" || dtype == "i32", ErrorKind::invalid_argument,
                    "[graph] an input is f32 or i32, got ", dtype);
            return graph.add_input(std::move(name), dtype == "i32" ? DType::i32 : DType::f32);
          },
          py::arg("name"), py::arg("dtype") = "f32")
      .def("weight", &Graph::add_weight, py::arg("name"), py::arg("shape"))
      .def("add", &add_node, py::arg("op"), py::arg("inputs"))
      .def("output", &Graph::add_output, py::arg("name"), py::arg("value"))
      .def_property_readonly("weights", &weights_of)
      .def_property_readonly("outputs",
                             [](const Graph& graph) {
                               std::vector<std::string> names;
                               for (const auto& [name, id] : graph.outputs) names.push_back(name);
                               return names;
                             })
      .def("with_side_paths", &add_side_paths, py::arg("ranks"),
           "The graph with low-rank paths beside these weights: \"a.weight\" of rank r gains "
           "\"a.lora_down\" [r, in] and \"a.lora_up\" [out, r].")
      .def("plan", &plan, py::arg("shapes"), py::arg("dtype") = "f32", py::arg("isa") = py::none(),
           py::arg("device") = "cpu", py::arg("steady") = InputNames(),
           py::arg("types") = py::none(),
           "Sizes, and what a run takes; with the types of the weights what they take prepared.")
      .def(
          "weight_bytes", &weight_bytes, py::arg("types"), py::arg("dtype") = "f32",
          py::arg("isa") = py::none(), py::arg("device") = "cpu",
          "Bytes of the prepared weights, of which these are the types, at sizes that double where "
          "the network goes up: exactly what a plan has then.")
      .def("__str__", &print_graph)
      .def_static("parse", &parse_graph, py::arg("text"));
  m.def("save_model", &save, py::arg("path"), py::arg("graphs"), py::arg("metadata"));
  m.def("load_model", &load, py::arg("path"));
  m.def("op_names", [] {
    std::vector<std::string> names;
    for (const Op* op : all_ops()) names.emplace_back(op->name);
    return names;
  });
}

}  // namespace sdcore::bindings
