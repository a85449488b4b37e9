#include "bindings/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/shape.h"
#include "sampler/gaussian.h"
#include "sampler/philox_random.h"
#include "sampler/sampler.h"
#include "sampler/torch_random.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;

Array empty_like(const Array& array) {
  return Array(std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
}

void require_same_shape(const char* what, const Array& array, const Array& sample) {
  const bool same = array.ndim() == sample.ndim() &&
                    std::equal(array.shape(), array.shape() + array.ndim(), sample.shape());
  if (same) return;
  const auto shape = [](const Array& a) {
    return to_string(Shape(a.shape(), a.shape() + a.ndim()));
  };
  fail(ErrorKind::invalid_argument, "[sampler] ", what, " has shape ", shape(array),
       ", but the sample has shape ", shape(sample));
}

Array step(Sampler& self, int64_t index, const Array& x, const Array& model_output,
           const std::optional<Array>& noise) {
  require_same_shape("the model's output", model_output, x);
  if (noise) require_same_shape("the noise", *noise, x);
  Array out = empty_like(x);
  const float* z = noise ? noise->data() : nullptr;
  float* result = out.mutable_data();
  const int64_t images = x.ndim() > 1 && x.size() > 0 ? x.shape(0) : 1;
  {
    const py::gil_scoped_release release;
    self.step(index, x.data(), model_output.data(), z, x.size(), images, result);
  }
  return out;
}

template <class Random>
Array randn(Random& self, const std::vector<py::ssize_t>& shape) {
  const Shape sizes(shape.begin(), shape.end());
  require(element_count(sizes) >= 0, ErrorKind::invalid_argument,
          "[randn] no such shape: ", to_string(sizes));
  Array out(shape);
  float* values = out.mutable_data();
  const int64_t count = out.size();
  const py::gil_scoped_release release;
  self.normal(values, count);
  return out;
}

// torch takes a seed as a signed or an unsigned number of 64 bits.
template <class Random>
void init_random(py::module_& m, const char* name) {
  py::class_<Random>(m, name)
      .def(py::init<uint64_t>(), py::arg("seed"))
      .def(py::init([](int64_t seed) { return Random(static_cast<uint64_t>(seed)); }),
           py::arg("seed"))
      .def("randn", &randn<Random>, py::arg("shape"));
}

}  // namespace

void init_sampler(py::module_& m) {
  py::class_<StepTerm>(m, "StepTerm")
      .def(py::init<float, float, float, float>(), py::arg("x") = 0.0f, py::arg("x0") = 0.0f,
           py::arg("m") = 0.0f, py::arg("z") = 0.0f);
  py::class_<StepRow>(m, "StepRow")
      .def(py::init<float, float, float, float, float, float, std::vector<StepTerm>, float, bool>(),
           py::arg("timestep"), py::arg("input_scale"), py::arg("x0_from_x"), py::arg("x0_from_m"),
           py::arg("clip"), py::arg("quantile"), py::arg("terms"), py::arg("noise"),
           py::arg("draws"));
  py::class_<Sampler>(m, "Sampler")
      .def(py::init([](std::vector<StepRow> rows, float init_noise_sigma) {
             return Sampler(StepTable{std::move(rows), init_noise_sigma});
           }),
           py::arg("rows"), py::arg("init_noise_sigma") = 1.0f)
      .def("step", &step, py::arg("index"), py::arg("sample"), py::arg("model_output"),
           py::arg("noise") = py::none())
      .def_property_readonly("x0", [](const Sampler& self) {
        return Array(static_cast<py::ssize_t>(self.x0().size()), self.x0().data());
      });
  m.def(
      "guide",
      [](const Array& uncond, const Array& cond, float scale) {
        require_same_shape("the conditional output", cond, uncond);
        Array out = empty_like(uncond);
        guide(uncond.data(), cond.data(), scale, uncond.size(), out.mutable_data());
        return out;
      },
      py::arg("uncond"), py::arg("cond"), py::arg("scale"));
  m.def(
      "draw_gaussian",
      [](const Array& mean, const Array& log_variance, const Array& noise) {
        require_same_shape("the logarithm of the variance", log_variance, mean);
        require_same_shape("the noise", noise, mean);
        Array out = empty_like(mean);
        draw_gaussian(mean.data(), log_variance.data(), noise.data(), mean.size(),
                      out.mutable_data());
        return out;
      },
      py::arg("mean"), py::arg("log_variance"), py::arg("noise"));
  init_random<TorchRandom>(m, "TorchRandom");
  init_random<PhiloxRandom>(m, "PhiloxRandom");
  m.def("philox4x32", &philox4x32, py::arg("counter"), py::arg("key"));
}

}  // namespace sdcore::bindings
