#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_text(pybind11::module_&) {}

}  // namespace sdcore::bindings
