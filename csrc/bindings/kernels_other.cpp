// Every kernel that is not a matrix product with a weight.
#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_kernels_other(pybind11::module_&) {}

}  // namespace sdcore::bindings
