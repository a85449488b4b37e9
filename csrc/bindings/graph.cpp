#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_graph(pybind11::module_&) {}

}  // namespace sdcore::bindings
