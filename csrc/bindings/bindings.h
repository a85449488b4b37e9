// One init function a room; each lives in the file of that name.
#pragma once

#include <pybind11/pybind11.h>

namespace sdcore::bindings {

void init_base(pybind11::module_& m);
void init_gguf(pybind11::module_& m);
void init_quant(pybind11::module_& m);
void init_kernels(pybind11::module_& m);
void init_kernels_matmul(pybind11::module_& m);
void init_kernels_other(pybind11::module_& m);
void init_device_array(pybind11::module_& m);
void init_graph(pybind11::module_& m);
void init_runtime(pybind11::module_& m);
void init_text(pybind11::module_& m);
void init_sampler(pybind11::module_& m);

}  // namespace sdcore::bindings
