// Kernels called one at a time on NumPy arrays: private, for tests and benchmarks.
#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_kernels(pybind11::module_& m) {
  auto kernels = m.def_submodule("kernels", "Single kernels, for tests and benchmarks.");
  init_kernels_matmul(kernels);
  init_kernels_other(kernels);
}

}  // namespace sdcore::bindings
