#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_runtime(pybind11::module_&) {}

}  // namespace sdcore::bindings
