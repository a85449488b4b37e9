// linear and conv2d.
#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_kernels_matmul(pybind11::module_&) {}

}  // namespace sdcore::bindings
