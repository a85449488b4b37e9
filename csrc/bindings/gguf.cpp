#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_gguf(pybind11::module_&) {}

}  // namespace sdcore::bindings
