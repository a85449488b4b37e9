#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
  using namespace sdcore::bindings;
  m.doc() = "The native core of sdcore. Use the public names of the sdcore package instead.";
  init_base(m);
  init_quant(m);
  init_gguf(m);
  init_kernels(m);
  init_device_array(m);
  init_graph(m);
  init_runtime(m);
  init_text(m);
  init_sampler(m);
}
