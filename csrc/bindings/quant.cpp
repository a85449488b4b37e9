// Tensors and their storage types.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "base/mapped_file.h"
#include "bindings/bindings.h"
#include "quant/types.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

const TypeInfo& named_type(const std::string& name) {
  const TypeInfo* info = find_type(name);
  require(info != nullptr, ErrorKind::invalid_argument, "[type] unknown name '", name, "'");
  return *info;
}

// Keeps a Python object alive for a Tensor, which may be dropped by any thread.
std::shared_ptr<const void> share(const py::object& object) {
  return {object.inc_ref().ptr(), [](const void* pointer) {
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire gil;
            Py_DECREF(static_cast<PyObject*>(const_cast<void*>(pointer)));
          }};
}

Type type_of(const py::dtype& dtype) {
  const auto size = dtype.itemsize();
  const char kind = dtype.kind();
  if (kind == 'f' && size == 2) return Type::f16;
  if (kind == 'f' && size == 4) return Type::f32;
  if (kind == 'f' && size == 8) return Type::f64;
  if (kind == 'i' && size == 1) return Type::i8;
  if (kind == 'i' && size == 2) return Type::i16;
  if (kind == 'i' && size == 4) return Type::i32;
  if (kind == 'i' && size == 8) return Type::i64;
  fail(ErrorKind::invalid_argument, "[tensor] cannot hold an array of ",
       py::str(dtype).cast<std::string>());
}

// The array itself where its elements already lie one after another in native order.
py::array contiguous(const py::array& array) {
  const auto dtype = array.dtype().attr("newbyteorder")("=");
  return py::module_::import("numpy").attr("asarray")(array, dtype, py::arg("order") = "C");
}

Tensor from_array(const py::array& array, const std::optional<std::string>& type) {
  Tensor tensor;
  const bool is_bf16 = type && named_type(*type).type == Type::bf16;
  if (is_bf16) {
    require(array.dtype().kind() == 'u' && array.itemsize() == 2, ErrorKind::invalid_argument,
            "[tensor] bf16 is made of an array of uint16, got ",
            py::str(array.dtype()).cast<std::string>());
    tensor.type = Type::bf16;
  } else {
    tensor.type = type_of(array.dtype());
    require(!type || named_type(*type).type == tensor.type, ErrorKind::invalid_argument,
            "[tensor] an array of ", py::str(array.dtype()).cast<std::string>(), " is not of type ",
            type.value_or(""));
  }
  const py::array kept = contiguous(array);
  tensor.shape.assign(array.shape(), array.shape() + array.ndim());
  tensor.data = kept.data();
  tensor.owner = share(kept);
  return tensor;
}

int64_t checked_bytes(Type type, const Shape& shape, ErrorKind kind) {
  const int64_t bytes = storage_bytes(type, shape);
  require(bytes >= 0, kind, "[tensor] sizes ", to_string(shape), " are too large, or do not divide",
          " into the blocks of ", type_info(type).block_size, " of ", type_info(type).name);
  return bytes;
}

Tensor from_bytes(const py::array& array, const std::string& type, const Shape& shape) {
  const Type id = named_type(type).type;
  const int64_t bytes = checked_bytes(id, shape, ErrorKind::invalid_argument);
  require(array.nbytes() == bytes, ErrorKind::invalid_argument, "[tensor] ", type, " of shape ",
          to_string(shape), " takes ", bytes, " bytes, got ", array.nbytes());
  const py::array kept = contiguous(array);
  return {kept.data(), id, shape, share(kept), nullptr};
}

Tensor from_file(std::shared_ptr<MappedFile> file, int64_t offset, const std::string& type,
                 const Shape& shape) {
  const Type id = named_type(type).type;
  const int64_t bytes = checked_bytes(id, shape, ErrorKind::checkpoint);
  const auto size = static_cast<int64_t>(file->size());
  require(0 <= offset && offset <= size && bytes <= size - offset, ErrorKind::checkpoint,
          "[tensor] '", file->path(), "' holds ", size, " bytes, but a tensor takes ", bytes,
          " from ", offset);
  return {file->data() + offset, id, shape, file, file.get()};
}

py::array_t<float> to_array(const Tensor& tensor) {
  const TypeInfo& info = type_info(tensor.type);
  require(info.to_float != nullptr, ErrorKind::invalid_argument, "[tensor] type ", info.name,
          " has no meaning as float; use .data");
  py::array_t<float> out(tensor.shape);
  float* values = out.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    to_float(tensor, 0, tensor.elements(), values);
  }
  return out;
}

py::array_t<uint8_t> data_view(const py::object& self) {
  const auto& tensor = self.cast<const Tensor&>();
  py::array_t<uint8_t> view({tensor.bytes()}, {1}, static_cast<const uint8_t*>(tensor.data), self);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

using Importance = std::optional<py::array_t<float, py::array::c_style | py::array::forcecast>>;

Tensor quantize(const Tensor& tensor, const std::string& type, const Importance& importance) {
  const Type id = named_type(type).type;
  std::span<const float> weights;
  if (importance) {
    require(importance->ndim() == 1 && importance->size() > 0, ErrorKind::invalid_argument,
            "[quantize] importance must be a list of weights, one for each number of a row");
    weights = {importance->data(), static_cast<size_t>(importance->size())};
  }
  const py::gil_scoped_release unlocked;
  return convert(tensor, id, *default_pool(), weights);
}

py::list types() {
  py::list rows;
  for (const TypeInfo& info : all_types()) {
    py::dict row;
    row["name"] = info.name;
    row["id"] = static_cast<uint32_t>(info.type);
    row["block_size"] = info.block_size;
    row["block_bytes"] = info.block_bytes;
    row["can_quantize"] = info.from_float != nullptr;
    row["integers"] = info.to_integers != nullptr;
    row["weighs"] = info.weighs;
    rows.append(row);
  }
  return rows;
}

}  // namespace

void init_quant(py::module_& m) {
  py::class_<Tensor>(m, "Tensor", "Stored elements: a shape, a storage type, and shared memory.")
      .def_static("from_file", &from_file, py::arg("file"), py::arg("offset"), py::arg("type"),
                  py::arg("shape"))
      .def_static("from_array", &from_array, py::arg("array"), py::arg("type") = py::none())
      .def_static("from_bytes", &from_bytes, py::arg("array"), py::arg("type"), py::arg("shape"))
      .def_property_readonly(
          "shape",
          [](const Tensor& t) {
            return py::typing::Tuple<py::int_, py::ellipsis>(py::tuple(py::cast(t.shape)));
          })
      .def_property_readonly("type", [](const Tensor& t) { return type_info(t.type).name; })
      .def_property_readonly("nbytes", &Tensor::bytes)
      .def_property_readonly("data", &data_view)
      .def("to_float", &to_array)
      .def("reshape", &reshape, py::arg("shape"))
      .def("unfold", &unfold, py::arg("shape"),
           "The same elements in a shape whose rows may cut blocks, for networks to take.")
      .def("rows", &rows, py::arg("begin"), py::arg("end"))
      .def("release", &Tensor::release)
      .def("__repr__", [](const Tensor& t) {
        return concat("Tensor(", type_info(t.type).name, ", ", to_string(t.shape), ")");
      });
  m.def("quantize", &quantize, py::arg("tensor"), py::arg("type"),
        py::arg("importance") = py::none());
  m.def(
      "quantize",
      [](const py::array& array, const std::string& type, const Importance& importance) {
        return quantize(from_array(array, std::nullopt), type, importance);
      },
      py::arg("array"), py::arg("type"), py::arg("importance") = py::none());
  m.def("types", &types);
}

}  // namespace sdcore::bindings
