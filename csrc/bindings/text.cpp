#include "bindings/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "text/clip_bpe.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

py::array_t<int32_t> encode_padded(const ClipTokenizer& self, const std::vector<py::bytes>& texts,
                                   int64_t max_length) {
  std::vector<int32_t> ids;
  for (const py::bytes& text : texts) {
    const std::vector<int32_t> padded = self.encode_padded(std::string_view(text), max_length);
    ids.insert(ids.end(), padded.begin(), padded.end());
  }
  const auto rows = static_cast<py::ssize_t>(texts.size());
  return py::array_t<int32_t>({rows, static_cast<py::ssize_t>(max_length)}, ids.data());
}

}  // namespace

void init_text(py::module_& m) {
  py::class_<SpecialToken>(m, "SpecialToken")
      .def(py::init<std::string, int32_t, bool>(), py::arg("text"), py::arg("id"),
           py::arg("normalized") = false);
  // Prompts come as bytes, so that a str which is not sound Unicode is no error.
  py::class_<ClipTokenizer>(m, "ClipTokenizer")
      .def(py::init([](std::vector<std::string> tokens, std::vector<std::string> merges,
                       std::vector<SpecialToken> special, int32_t bos, int32_t eos, int32_t pad,
                       int32_t unknown) {
             return ClipTokenizer({std::move(tokens), std::move(merges), std::move(special), bos,
                                   eos, pad, unknown});
           }),
           py::arg("tokens"), py::arg("merges"), py::arg("special"), py::arg("bos"), py::arg("eos"),
           py::arg("pad"), py::arg("unknown"))
      .def("encode", [](const ClipTokenizer& self,
                        const py::bytes& text) { return self.encode(std::string_view(text)); })
      .def("encode_padded", &encode_padded, py::arg("texts"), py::arg("max_length"))
      .def("decode", [](const ClipTokenizer& self, const std::vector<int32_t>& ids) {
        return py::bytes(self.decode(ids));
      });
}

}  // namespace sdcore::bindings
