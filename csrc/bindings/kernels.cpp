// Kernels called one at a time on NumPy arrays: private, for tests and benchmarks.
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "kernels/roofline/roofline.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

// {"avx2 f32": operations a second, …, "memory read": bytes a second} of all threads together.
std::map<std::string, double> measure_roofline(std::optional<int> threads) {
  const auto pool = threads ? shared_pool(*threads) : default_pool();
  const KernelContext context{*pool, default_isa()};
  std::map<std::string, double> limits;
  for (const Peak& peak : measure_peaks(context)) limits[peak.name] = peak.per_second;
  limits["memory read"] = measure_memory_read(context);
  return limits;
}

}  // namespace

void init_kernels(py::module_& m) {
  auto kernels = m.def_submodule("kernels", "Single kernels, for tests and benchmarks.");
  kernels.def("roofline", &measure_roofline, py::arg("threads") = py::none(),
              py::call_guard<py::gil_scoped_release>());
  init_kernels_matmul(kernels);
  init_kernels_other(kernels);
}

}  // namespace sdcore::bindings
