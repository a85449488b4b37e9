// Metadata of GGUF files in Python: a dict of (type, payload), see gguf.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include "gguf/format.h"

namespace sdcore::bindings {

pybind11::dict metadata_to_python(const gguf::Metadata& metadata);
gguf::Metadata metadata_from_python(const pybind11::dict& metadata);

}  // namespace sdcore::bindings
