#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_quant(pybind11::module_&) {}

}  // namespace sdcore::bindings
