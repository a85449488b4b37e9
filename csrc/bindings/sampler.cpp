#include "bindings/bindings.h"

namespace sdcore::bindings {

void init_sampler(pybind11::module_&) {}

}  // namespace sdcore::bindings
