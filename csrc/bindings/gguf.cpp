// GGUF files. A value of the metadata crosses as (type, payload): a number, a bool or a str, and
// for an array (type of the elements, list of payloads).
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/gguf_metadata.h"
#include "gguf/reader.h"
#include "gguf/writer.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

using gguf::Array;
using gguf::Value;

// Text that is not UTF-8 survives a round trip through Python.
py::object to_python(const std::string& text) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "surrogateescape");
  if (!decoded) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

std::string to_text(const py::handle& object) {
  return object.attr("encode")("utf-8", "surrogateescape").cast<std::string>();
}

py::object to_python(const Array& array);
template <class Number>
  requires std::is_arithmetic_v<Number>
py::object to_python(Number number) {
  return py::cast(number);
}

py::object to_python(const Array& array) {
  const py::str type = gguf::kTypeNames[array.items.index()];
  return std::visit(
      [&]<class Item>(const std::vector<Item>& items) {
        py::list list(items.size());
        for (size_t i = 0; i < items.size(); ++i) list[i] = to_python(static_cast<Item>(items[i]));
        return py::object(py::make_tuple(type, list));
      },
      array.items);
}

py::object to_python(const Value& value) {
  const py::str type = gguf::kTypeNames[value.index()];
  const py::object payload =
      std::visit([](const auto& held) { return py::object(to_python(held)); }, value);
  return py::make_tuple(type, payload);
}

size_t type_number(const std::string& name) {
  const auto found = std::find(gguf::kTypeNames.begin(), gguf::kTypeNames.end(), name);
  require(found != gguf::kTypeNames.end(), ErrorKind::invalid_argument,
          "[gguf] metadata has no type '", name, "'");
  return static_cast<size_t>(found - gguf::kTypeNames.begin());
}

Array to_array(const py::handle& payload);

template <class T>
T from_python(const py::handle& payload, const char* type) {
  try {
    if constexpr (std::is_same_v<T, std::string>)
      return to_text(payload);
    else if constexpr (std::is_same_v<T, Array>)
      return to_array(payload);
    else
      return payload.cast<T>();
  } catch (const py::builtin_exception&) {
  } catch (const py::error_already_set&) {
  }
  fail(ErrorKind::invalid_argument, "[gguf] ", py::repr(payload).cast<std::string>(), " is not a ",
       type);
}

template <size_t index = 0>
Array array_of(size_t type, const py::list& list) {
  if constexpr (index == gguf::kTypes) {
    fail(ErrorKind::internal, "[gguf] no array type ", type);
  } else {
    if (type != index) return array_of<index + 1>(type, list);
    using Item = std::variant_alternative_t<index, Value>;
    std::vector<Item> items;
    items.reserve(list.size());
    for (const auto& each : list) {
      items.push_back(from_python<Item>(each, gguf::kTypeNames[index]));
    }
    Array array;
    array.items.emplace<index>(std::move(items));
    return array;
  }
}

Array to_array(const py::handle& payload) {
  const auto pair = payload.cast<py::tuple>();
  return array_of(type_number(pair[0].cast<std::string>()), pair[1].cast<py::list>());
}

template <size_t index = 0>
Value to_value(size_t type, const py::handle& payload) {
  if constexpr (index == gguf::kTypes) {
    fail(ErrorKind::internal, "[gguf] no type ", type);
  } else {
    if (type != index) return to_value<index + 1>(type, payload);
    using Held = std::variant_alternative_t<index, Value>;
    return Value(std::in_place_index<index>, from_python<Held>(payload, gguf::kTypeNames[index]));
  }
}

py::tuple read(const std::filesystem::path& path) {
  gguf::File file;
  {
    const py::gil_scoped_release unlocked;
    file = gguf::read(path);
  }
  py::dict tensors;
  for (const auto& [name, tensor] : file.tensors) tensors[to_python(name)] = py::cast(tensor);
  const char* order = file.byte_order == gguf::ByteOrder::big ? "big" : "little";
  return py::make_tuple(file.version, order, metadata_to_python(file.metadata), tensors);
}

// For tensors that do not exist yet: (name, type, shape) of each.
py::bytes header(const py::dict& metadata,
                 const std::vector<std::tuple<py::str, std::string, Shape>>& tensors) {
  std::vector<gguf::NamedTensor> named;
  for (const auto& [name, type, shape] : tensors) {
    const TypeInfo* info = find_type(type);
    require(info != nullptr, ErrorKind::invalid_argument, "[gguf] there is no type '", type, "'");
    named.push_back({to_text(name), {nullptr, info->type, shape, nullptr, nullptr}});
  }
  return gguf::header(metadata_from_python(metadata), named);
}

void write(const std::filesystem::path& path, const py::dict& metadata, const py::dict& tensors,
           const std::string& byte_order) {
  require(byte_order == "little" || byte_order == "big", ErrorKind::invalid_argument,
          "[gguf] byte order must be 'little' or 'big', got '", byte_order, "'");
  const auto order = byte_order == "big" ? gguf::ByteOrder::big : gguf::ByteOrder::little;
  const gguf::Metadata values = metadata_from_python(metadata);
  std::vector<gguf::NamedTensor> named;
  for (const auto& [name, tensor] : tensors) {
    named.push_back({to_text(name), tensor.cast<const Tensor&>()});
  }
  const py::gil_scoped_release unlocked;
  gguf::write(path, values, named, order);
}

}  // namespace

py::dict metadata_to_python(const gguf::Metadata& metadata) {
  py::dict values;
  for (const auto& [key, value] : metadata) values[to_python(key)] = to_python(value);
  return values;
}

gguf::Metadata metadata_from_python(const py::dict& metadata) {
  gguf::Metadata values;
  for (const auto& [key, value] : metadata) {
    const auto pair = value.cast<py::tuple>();
    values.emplace_back(to_text(key), to_value(type_number(pair[0].cast<std::string>()), pair[1]));
  }
  return values;
}

void init_gguf(py::module_& m) {
  m.def("gguf_read", &read, py::arg("path"));
  m.def("gguf_header", &header, py::arg("metadata"), py::arg("tensors"));
  m.def("gguf_write", &write, py::arg("path"), py::arg("metadata"), py::arg("tensors"),
        py::arg("byte_order"));
}

}  // namespace sdcore::bindings
