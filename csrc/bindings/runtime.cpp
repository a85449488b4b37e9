// Networks: graphs with weights, run on NumPy arrays.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/device_array.h"
#include "bindings/options.h"
#include "bindings/stop_flag.h"
#include "runtime/network.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

using Tensors = WeightStore::Tensors;

std::shared_ptr<Network> make_network(const Graph& graph, Tensors tensors, const std::string& dtype,
                                      const std::optional<std::string>& isa,
                                      std::optional<int> threads, const std::string& device,
                                      std::optional<bool> stream_weights) {
  const Streaming streaming = !stream_weights   ? Streaming::where_they_do_not_fit
                              : *stream_weights ? Streaming::always
                                                : Streaming::never;
  return std::make_shared<Network>(graph, std::make_shared<WeightStore>(std::move(tensors)),
                                   NetworkOptions{activation_dtype(dtype), isa_or_default(isa),
                                                  pool_of(threads), device_of(device), streaming});
}

const char* resolve_auto(const Graph& graph, const TypeNames& types,
                         const std::optional<std::string>& isa, bool on_device) {
  return dtype_name(auto_dtype(graph, weight_types(types), isa_or_default(isa), on_device));
}

std::shared_ptr<Network> with_weights(const Network& network, Tensors tensors,
                                      const std::optional<Graph>& graph) {
  auto weights = std::make_shared<WeightStore>(std::move(tensors), network.shared_weights());
  return std::make_shared<Network>(graph.value_or(network.graph()), std::move(weights),
                                   network.options());
}

DType input_dtype(const Graph& graph, const std::string& name) {
  for (const Value& input : graph.values) {
    if (input.kind == Value::Kind::input && input.name == name) return input.dtype;
  }
  fail(ErrorKind::invalid_argument, "[network] there is no input '", name, "'");
}

// The caller's arrays, dense and of a dtype that the graph wants, and kept alive during a run: on
// the network's device as they are, all others as NumPy has them.
struct Inputs {
  Inputs(const Network& network, const py::dict& given) {
    gpu::Device* device = network.options().device;
    for (const auto& [key, value] : given) {
      const auto name = key.cast<std::string>();
      const DType dtype = input_dtype(network.graph(), name);
      const auto object = py::reinterpret_borrow<py::object>(value);
      if (auto array = device ? as_device_array(object, *device) : std::nullopt) {
        add(name, dtype, std::move(*array));
      } else {
        add(name, convert(object, dtype));
      }
    }
  }

  static py::array convert(const py::object& value, DType dtype) {
    if (dtype == DType::i32) {
      return py::array_t < int32_t, py::array::c_style | py::array::forcecast > (value);
    }
    return py::array_t < float, py::array::c_style | py::array::forcecast > (value);
  }

  void add(const std::string& name, py::array array) {
    shapes[name] = Shape(array.shape(), array.shape() + array.ndim());
    arrays[name] = array.data();
    kept.push_back(std::move(array));
  }

  void add(const std::string& name, DType wanted, gpu::Array array) {
    require((array.dtype == DType::i32) == (wanted == DType::i32), ErrorKind::invalid_argument,
            "[network] input '", name, "' must be ",
            wanted == DType::i32 ? "i32" : "f32, bf16 or f16", " on a device, got ",
            dtype_name(array.dtype));
    shapes[name] = array.shape;
    arrays[name] = InputArray(array.data, array.dtype);
    kept_on_device.push_back(std::move(array));
  }

  InputShapes shapes;
  InputArrays arrays;
  std::vector<py::array> kept;
  std::vector<gpu::Array> kept_on_device;
};

// Copies, so that nobody can change them.
std::shared_ptr<Steady> make_steady(const py::dict& given) {
  Steady::Inputs inputs;
  for (const auto& [key, value] : given) {
    const auto object = py::reinterpret_borrow<py::object>(value);
    const py::array array = Inputs::convert(object, DType::f32);
    const auto bytes = static_cast<size_t>(array.nbytes());
    Steady::Input input{Shape(array.shape(), array.shape() + array.ndim()), Buffer(bytes)};
    if (bytes > 0) std::memcpy(input.values.data(), array.data(), bytes);
    inputs.insert_or_assign(key.cast<std::string>(), std::move(input));
  }
  return std::make_shared<Steady>(std::move(inputs));
}

using Names = std::vector<std::string>;
using SteadyPtr = std::shared_ptr<Steady>;

// Those that are asked to stay must be there, and have a device to stay on.
void check_staying(const Network& network, const Names& stay) {
  require(stay.empty() || network.options().device, ErrorKind::invalid_argument,
          "[network] outputs stay on a device, and this network is on the CPU");
  for (const std::string& name : stay) {
    const auto is_named = [&](const auto& output) { return output.first == name; };
    require(std::ranges::any_of(network.graph().outputs, is_named), ErrorKind::invalid_argument,
            "[network] there is no output '", name, "'");
  }
}

py::dict run(Network& network, const py::dict& given, const Names& stay, const SteadyPtr& steady,
             Observer observer = {}) {
  check_staying(network, stay);
  const Inputs inputs(network, given);
  py::dict results;
  OutputArrays outputs;
  std::shared_ptr<const Executable> executable;
  {
    const py::gil_scoped_release unlocked;
    executable = network.executable(inputs.shapes, steady.get());
  }
  const Plan& plan = executable->plan();
  for (const auto& [name, id] : plan.graph.outputs) {
    const Shape& shape = plan.types[static_cast<size_t>(id)].shape;
    if (std::ranges::find(stay, name) != stay.end()) {
      gpu::Array array = new_array(*network.options().device, DType::f32, shape);
      outputs[name] = OutputArray(static_cast<float*>(array.data), true);
      results[py::str(name)] = std::move(array);
      continue;
    }
    py::array_t<float> array(shape);
    outputs[name] = array.mutable_data();
    results[py::str(name)] = std::move(array);
  }
  observer.before_step = look_for_end();
  const py::gil_scoped_release unlocked;
  network.run(inputs.shapes, inputs.arrays, outputs, observer, steady.get());
  return results;
}

py::tuple profile(Network& network, const py::dict& given, const SteadyPtr& steady) {
  std::vector<StepTime> times;
  const py::dict results = run(network, given, {}, steady, {.times = &times});
  py::list rows;
  for (const StepTime& time : times) {
    rows.append(py::make_tuple(time.label, time.op, time.seconds, time.flops));
  }
  return py::make_tuple(results, rows);
}

py::tuple run_with_squares(Network& network, const py::dict& given, const SteadyPtr& steady) {
  std::map<std::string, InputSquares> squares;
  const py::dict results = run(network, given, {}, steady, {.squares = &squares});
  py::dict found;
  for (const auto& [name, each] : squares) {
    const py::array_t<double> sums(static_cast<py::ssize_t>(each.sums.size()), each.sums.data());
    found[py::str(name)] = py::make_tuple(sums, each.rows);
  }
  return py::make_tuple(results, found);
}

void init_network(py::module_& m) {
  py::class_<Network, std::shared_ptr<Network>>(
      m, "Network", "A graph with its weights, ready to run at any size, from any thread.")
      .def(py::init(&make_network), py::arg("graph"), py::arg("tensors"), py::arg("dtype") = "f32",
           py::arg("isa") = py::none(), py::arg("threads") = py::none(), py::arg("device") = "cpu",
           py::arg("stream_weights") = py::none())
      .def("with_weights", &with_weights, py::arg("tensors"), py::arg("graph") = py::none(),
           "A network with these weights in place of its own; it shares all others with this one, "
           "and runs as it does.")
      .def(
          "run",
          [](Network& network, const py::dict& inputs, const Names& stay, const SteadyPtr& steady) {
            return run(network, inputs, stay, steady);
          },
          py::arg("inputs"), py::arg("stay") = Names(), py::arg("steady") = py::none(),
          "The outputs. On a GPU, arrays that are there are read where they are, and outputs of "
          "the names in `stay` stay there as DeviceArrays. Inputs that are not in `inputs` are in "
          "`steady`.")
      .def("run_with_squares", &run_with_squares, py::arg("inputs"), py::arg("steady") = py::none(),
           "Runs once; the outputs, and by the weight of each linear layer the sums of squares of "
           "its inputs and the number of rows.")
      .def("profile", &profile, py::arg("inputs"), py::arg("steady") = py::none(),
           "Runs, and times every step: the results and a list of (label, op, seconds, flops).")
      .def(
          "prepare",
          [](Network& network, const InputShapes& shapes) { (void)network.executable(shapes); },
          py::arg("shapes"), py::call_guard<py::gil_scoped_release>())
      .def("release", &Network::release, py::call_guard<py::gil_scoped_release>(),
           "Gives back the memory of prepared weights until the next run.")
      .def("release_mapped", &Network::release_mapped, py::call_guard<py::gil_scoped_release>(),
           "Lets the system take back the memory of mapped files, and of blocks woven from them, "
           "until the next run reads them.")
      .def(
          "with_graph",
          [](const Network& network, const Graph& graph) {
            return std::make_shared<Network>(graph, network.shared_weights(), network.options());
          },
          py::arg("graph"), "Another graph over the same weights, which are shared.")
      .def_property_readonly("streamed_bytes", &Network::streamed_bytes,
                             "Bytes of weights that stay in this memory and go to the GPU layer by "
                             "layer, in every run at the size last used.")
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

}  // namespace

void init_runtime(py::module_& m) {
  m.def(
      "drop_idle_memory", [] { IdleArena::shared()->drop(); },
      "Frees the arena that the last run left for the next one.");
  py::class_<StopFlag, std::shared_ptr<StopFlag>>(
      m, "StopFlag",
      "Ends runs on the CPU from another thread: those of a thread that is within `with flag:` "
      "raise CancelledError, within the time of one op, once it is set.")
      .def(py::init<>())
      .def("set", &StopFlag::set)
      .def_property_readonly("is_set", &StopFlag::is_set)
      .def("__enter__", &StopFlag::enter)
      .def("__exit__",
           [](const std::shared_ptr<StopFlag>& flag, const py::args&) { flag->leave(); });
  m.def("auto_dtype", &resolve_auto, py::arg("graph"), py::arg("types"),
        py::arg("isa") = py::none(), py::arg("on_device") = false,
        "What a graph's activations are best held in, by the types of its weights.");
  py::class_<Steady, SteadyPtr>(m, "Steady",
                                "Copies of inputs, float32, that are the same in several runs, and "
                                "what networks make of them alone, which each computes in its "
                                "first run with them.")
      .def(py::init(&make_steady), py::arg("inputs"))
      .def_property_readonly("shapes", &Steady::shapes);
  init_network(m);
}

}  // namespace sdcore::bindings
