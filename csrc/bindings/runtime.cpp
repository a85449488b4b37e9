// Networks: graphs with weights, run on NumPy arrays.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/options.h"
#include "runtime/network.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

using Tensors = WeightStore::Tensors;

std::shared_ptr<Network> make_network(const Graph& graph, Tensors tensors, const std::string& dtype,
                                      const std::optional<std::string>& isa,
                                      std::optional<int> threads, const std::string& device) {
  return std::make_shared<Network>(graph, std::make_shared<WeightStore>(std::move(tensors)),
                                   NetworkOptions{activation_dtype(dtype), isa_or_default(isa),
                                                  pool_of(threads), device_of(device)});
}

const char* resolve_auto(const Graph& graph, const std::map<std::string, std::string>& weights,
                         const std::optional<std::string>& isa, bool on_device) {
  WeightTypes types;
  for (const auto& [name, type] : weights) {
    const TypeInfo* info = find_type(type);
    require(info != nullptr, ErrorKind::invalid_argument, "[dtype] unknown type '", type, "'");
    types.emplace(name, info->type);
  }
  return dtype_name(auto_dtype(graph, types, isa_or_default(isa), on_device));
}

std::shared_ptr<Network> with_weights(const Network& network, Tensors tensors,
                                      const std::optional<Graph>& graph) {
  auto weights = std::make_shared<WeightStore>(std::move(tensors), network.shared_weights());
  return std::make_shared<Network>(graph.value_or(network.graph()), std::move(weights),
                                   network.options());
}

// The caller's arrays, made dense and of the dtype that the graph wants, and kept alive during a
// run.
struct Inputs {
  Inputs(const Graph& graph, const py::dict& given) {
    for (const auto& [key, value] : given) {
      const auto name = key.cast<std::string>();
      py::array array = convert(graph, name, py::reinterpret_borrow<py::object>(value));
      shapes[name] = Shape(array.shape(), array.shape() + array.ndim());
      arrays[name] = array.data();
      kept.push_back(std::move(array));
    }
  }

  static py::array convert(const Graph& graph, const std::string& name, const py::object& value) {
    for (const Value& input : graph.values) {
      if (input.kind != Value::Kind::input || input.name != name) continue;
      if (input.dtype == DType::i32) {
        return py::array_t < int32_t, py::array::c_style | py::array::forcecast > (value);
      }
      return py::array_t < float, py::array::c_style | py::array::forcecast > (value);
    }
    fail(ErrorKind::invalid_argument, "[network] there is no input '", name, "'");
  }

  InputShapes shapes;
  InputArrays arrays;
  std::vector<py::array> kept;
};

py::dict run(Network& network, const py::dict& given, const Observer& observer = {}) {
  const Inputs inputs(network.graph(), given);
  py::dict results;
  OutputArrays outputs;
  std::shared_ptr<const Executable> executable;
  {
    const py::gil_scoped_release unlocked;
    executable = network.executable(inputs.shapes);
  }
  const Plan& plan = executable->plan();
  for (const auto& [name, id] : plan.graph.outputs) {
    py::array_t<float> array(plan.types[static_cast<size_t>(id)].shape);
    outputs[name] = array.mutable_data();
    results[py::str(name)] = std::move(array);
  }
  const py::gil_scoped_release unlocked;
  network.run(inputs.shapes, inputs.arrays, outputs, observer);
  return results;
}

py::tuple profile(Network& network, const py::dict& given) {
  std::vector<StepTime> times;
  const py::dict results = run(network, given, {.times = &times});
  py::list rows;
  for (const StepTime& time : times) {
    rows.append(py::make_tuple(time.label, time.op, time.seconds, time.flops));
  }
  return py::make_tuple(results, rows);
}

py::tuple run_with_squares(Network& network, const py::dict& given) {
  std::map<std::string, InputSquares> squares;
  const py::dict results = run(network, given, {.squares = &squares});
  py::dict found;
  for (const auto& [name, each] : squares) {
    const py::array_t<double> sums(static_cast<py::ssize_t>(each.sums.size()), each.sums.data());
    found[py::str(name)] = py::make_tuple(sums, each.rows);
  }
  return py::make_tuple(results, found);
}

}  // namespace

void init_runtime(py::module_& m) {
  m.def(
      "drop_idle_memory", [] { IdleArena::shared()->drop(); },
      "Frees the arena that the last run left for the next one.");
  m.def("auto_dtype", &resolve_auto, py::arg("graph"), py::arg("types"),
        py::arg("isa") = py::none(), py::arg("on_device") = false,
        "What a graph's activations are best held in, by the types of its weights.");
  py::class_<Network, std::shared_ptr<Network>>(
      m, "Network", "A graph with its weights, ready to run at any size, from any thread.")
      .def(py::init(&make_network), py::arg("graph"), py::arg("tensors"), py::arg("dtype") = "f32",
           py::arg("isa") = py::none(), py::arg("threads") = py::none(), py::arg("device") = "cpu")
      .def("with_weights", &with_weights, py::arg("tensors"), py::arg("graph") = py::none(),
           "A network with these weights in place of its own; it shares all others with this one, "
           "and runs as it does.")
      .def(
          "run", [](Network& network, const py::dict& inputs) { return run(network, inputs); },
          py::arg("inputs"))
      .def("run_with_squares", &run_with_squares, py::arg("inputs"),
           "Runs once; the outputs, and by the weight of each linear layer the sums of squares of "
           "its inputs and the number of rows.")
      .def("profile", &profile, py::arg("inputs"),
           "Runs, and times every step: the results and a list of (label, op, seconds, flops).")
      .def(
          "prepare",
          [](Network& network, const InputShapes& shapes) { (void)network.executable(shapes); },
          py::arg("shapes"), py::call_guard<py::gil_scoped_release>())
      .def("release", &Network::release, py::call_guard<py::gil_scoped_release>(),
           "Gives back the memory of prepared weights until the next run.")
      .def(
          "with_graph",
          [](const Network& network, const Graph& graph) {
            return std::make_shared<Network>(graph, network.shared_weights(), network.options());
          },
          py::arg("graph"), "Another graph over the same weights, which are shared.")
      .def_property_readonly("graph", [](const Network& n) { return n.graph(); })
      .def_property_readonly("tensors", [](const Network& n) { return n.weights().tensors(); })
      .def_property_readonly("dtype",
                             [](const Network& n) { return dtype_name(n.options().dtype); })
      .def_property_readonly("isa", [](const Network& n) { return isa_name(n.options().isa); })
      .def_property_readonly(
          "device",
          [](const Network& n) { return n.options().device ? n.options().device->id() : "cpu"; })
      .def_property_readonly("threads", [](const Network& n) { return n.options().pool->size(); });
}

}  // namespace sdcore::bindings
