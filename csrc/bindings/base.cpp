#include "bindings/bindings.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <string_view>

#include "base/cpu.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "gpu/device.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

// The exception classes are written in Python (sdcore/errors.py); an Error becomes the one of its
// kind.
const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_argument:
      return "InvalidArgumentError";
    case ErrorKind::checkpoint:
      return "CheckpointError";
    case ErrorKind::unsupported_model:
      return "UnsupportedModelError";
    case ErrorKind::io:
      return "FileError";
    case ErrorKind::out_of_memory:
      return "OutOfMemoryError";
    case ErrorKind::cancelled:
      return "CancelledError";
    case ErrorKind::internal:
      break;
  }
  return "SDCoreError";
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    const py::object type = py::module_::import("sdcore.errors").attr(class_name(error.kind()));
    // A message may quote bytes that are not UTF-8, such as a path's.
    const std::string_view what = error.what();
    const py::object text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
        what.data(), static_cast<py::ssize_t>(what.size()), "backslashreplace"));
    PyErr_SetObject(type.ptr(), text.ptr());
  }
}

}  // namespace

void init_base(py::module_& m) {
  py::register_exception_translator(&translate);
  m.attr("__version__") = SDCORE_VERSION;
  m.def("cpu_features", [] {
    py::dict found;
    for (const CpuFeature& feature : cpu_features()) found[py::str(feature.name)] = feature.present;
    return found;
  });
  m.def("hardware_isa", [] { return isa_name(hardware_isa()); });
  m.def("default_isa", [] { return isa_name(default_isa()); });
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (const Isa isa : supported_isas()) names.emplace_back(isa_name(isa));
    return names;
  });
  m.def("available_cpus", &available_cpus);
  m.def("device_names", &gpu::device_names, "The GPUs here, as `device` names them.");
  m.def(
      "device_memory",
      [](const std::string& name) {
        const gpu::Device& device = gpu::open_device(name);
        return std::pair(device.free_bytes(), device.total_bytes());
      },
      py::arg("name"), "Bytes of a GPU that are free, and all of them.");
  m.def(
      "check_device",
      [](const std::string& name) {
        if (name != "cpu") (void)gpu::open_device(name);
      },
      py::arg("name"), "Raises InvalidArgumentError, saying what to do, unless it can be used.");
  py::class_<MappedFile, std::shared_ptr<MappedFile>>(m, "MappedFile", py::buffer_protocol())
      .def(py::init([](const std::filesystem::path& path) {
             return std::const_pointer_cast<MappedFile>(MappedFile::open(path));
           }),
           py::arg("path"))
      .def_property_readonly("path", &MappedFile::path)
      .def("__len__", &MappedFile::size)
      .def_buffer([](MappedFile& file) {
        return py::buffer_info(const_cast<std::byte*>(file.data()), 1,
                               py::format_descriptor<uint8_t>::format(), 1,
                               {static_cast<py::ssize_t>(file.size())}, {1}, /*readonly=*/true);
      });
}

}  // namespace sdcore::bindings
