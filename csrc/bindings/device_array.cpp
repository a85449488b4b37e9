// Arrays in a device's memory, to and from NumPy, and shared with other libraries by DLPack and
// __cuda_array_interface__.
#include "bindings/device_array.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bindings.h"
#include "bindings/dlpack.h"
#include "bindings/options.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace sdcore::bindings {
namespace {

using gpu::Array;

dlpack::Device dlpack_device(const gpu::Device& device) {
  // The emulation's memory is the program's.
  if (device.backend() == gpu::Backend::emulated) return {dlpack::cpu, 0};
  return {dlpack::cuda, device.ordinal()};
}

// ---- types

// What others call the types of arrays; NumPy and its relatives have no name for bfloat16.
struct Names {
  DType dtype;
  const char* numpy;
  dlpack::DataType dlpack;
};
constexpr Names kNames[] = {{DType::f32, "<f4", {dlpack::floating, 32}},
                            {DType::bf16, nullptr, {dlpack::brain_floating, 16}},
                            {DType::f16, "<f2", {dlpack::floating, 16}},
                            {DType::i32, "<i4", {dlpack::signed_integer, 32}}};

const Names& names_of(DType dtype) { return *std::ranges::find(kNames, dtype, &Names::dtype); }

[[noreturn]] void fail_type(const std::string& found) {
  fail(ErrorKind::invalid_argument,
       "[array] must be float32, bfloat16, float16 or int32 on a device, got ", found);
}

DType dtype_of(const dlpack::DataType& type) {
  for (const auto& [dtype, numpy, ours] : kNames) {
    if (type.code == ours.code && type.bits == ours.bits && type.lanes == 1) return dtype;
  }
  fail_type(concat("DLPack's type ", int{type.code}, " of ", int{type.bits}, " bits"));
}

DType dtype_of(const std::string& typestr) {
  for (const auto& [dtype, numpy, dlpack] : kNames) {
    if (numpy && typestr == numpy) return dtype;
  }
  fail_type(typestr);
}

// ---- layout

Shape dense_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) strides[i] = stride;
  return strides;
}

// `strides` in units of `unit`; those of sizes of 1 mean nothing.
void require_dense(const Shape& shape, const Shape& strides, int64_t unit) {
  const Shape wanted = dense_strides(shape);
  const int64_t count = element_count(shape);
  require(count >= 0 && strides.size() == shape.size(), ErrorKind::invalid_argument,
          "[array] a shape of ", to_string(shape), " with strides ", to_string(strides));
  for (size_t i = 0; i < shape.size(); ++i) {
    require(count == 0 || shape[i] == 1 || strides[i] == wanted[i] * unit,
            ErrorKind::invalid_argument, "[array] an array of ", to_string(shape),
            " must lie in memory in that order, and has strides ", to_string(strides),
            ": give a contiguous copy");
  }
}

void require_here(const gpu::Device& device, const void* data, bool empty) {
  require(empty || device.can_read(data), ErrorKind::invalid_argument,
          "[array] the array is not in the memory of ", device.id());
}

// ---- from other libraries

// Python objects are let go with the lock held.
std::shared_ptr<const void> keep(py::object object) {
  return {new py::object(std::move(object)), [](const py::object* kept) {
            const py::gil_scoped_acquire locked;
            delete kept;
          }};
}

Array from_tensor(const dlpack::Tensor& tensor, gpu::Device& device) {
  const dlpack::Device ours = dlpack_device(device);
  const bool same = tensor.device.type == ours.type && tensor.device.id == ours.id;
  require(same || (tensor.device.type == dlpack::cuda_managed && ours.type == dlpack::cuda),
          ErrorKind::invalid_argument, "[array] the array is not in the memory of ", device.id(),
          ", but on DLPack's device ", tensor.device.type, ":", tensor.device.id);
  Array array{&device, nullptr, static_cast<std::byte*>(tensor.data) + tensor.byte_offset,
              dtype_of(tensor.dtype), Shape(tensor.shape, tensor.shape + tensor.ndim)};
  if (tensor.strides) {
    require_dense(array.shape, Shape(tensor.strides, tensor.strides + tensor.ndim), 1);
  }
  require_here(device, array.data, array.bytes() == 0);
  return array;
}

// Takes what a capsule of this kind holds; from then on it is the array's.
template <class Managed>
std::optional<Array> from_capsule(const py::object& capsule, gpu::Device& device) {
  if (!PyCapsule_IsValid(capsule.ptr(), Managed::kName)) return std::nullopt;
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), Managed::kName));
  Array array = from_tensor(managed->tensor, device);
  if constexpr (std::is_same_v<Managed, dlpack::Versioned>) {
    array.read_only = managed->flags & dlpack::kReadOnly;
  }
  PyCapsule_SetName(capsule.ptr(), Managed::kUsed);
  array.memory = {managed, [](Managed* held) {
                    if (held->deleter) held->deleter(held);
                  }};
  return array;
}

Array from_dlpack(const py::object& object, gpu::Device& device) {
  // The producer lets our stream wait for what it has under way.
  py::dict options;
  if (const auto stream = reinterpret_cast<uintptr_t>(device.stream())) options["stream"] = stream;
  const py::object produce = object.attr("__dlpack__");
  py::object capsule;
  try {
    capsule = produce(**options, py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;  // else it is older than versions are
    capsule = produce(**options);
  }
  if (auto array = from_capsule<dlpack::Versioned>(capsule, device)) return *array;
  if (auto array = from_capsule<dlpack::Unversioned>(capsule, device)) return *array;
  fail(ErrorKind::invalid_argument, "[array] __dlpack__ gave no tensor");
}

Array from_cuda_array(const py::object& object, gpu::Device& device) {
  const auto told = object.attr("__cuda_array_interface__").cast<py::dict>();
  const auto place = told["data"].cast<std::pair<uintptr_t, bool>>();
  Array array{&device,
              keep(object),
              reinterpret_cast<void*>(place.first),
              dtype_of(told["typestr"].cast<std::string>()),
              told["shape"].cast<Shape>(),
              place.second};
  if (told.contains("strides") && !told["strides"].is_none()) {
    require_dense(array.shape, told["strides"].cast<Shape>(), dtype_size(array.dtype));
  }
  require_here(device, array.data, array.bytes() == 0);
  constexpr uintptr_t kDefaultStream = 1;  // of those who say nothing, from before version 3
  if (!told.contains("stream")) {
    device.follow(kDefaultStream);
  } else if (!told["stream"].is_none()) {
    device.follow(told["stream"].cast<uintptr_t>());
  }
  return array;
}

// ---- to other libraries

template <class Managed>
py::capsule to_capsule(const Array& array) {
  struct Lent {
    Managed managed;
    Array array;
    Shape strides;
  };
  auto lent = std::make_unique<Lent>(Lent{{}, array, dense_strides(array.shape)});
  Managed& managed = lent->managed;
  managed.tensor = {array.data,
                    dlpack_device(*array.device),
                    static_cast<int32_t>(array.shape.size()),
                    names_of(array.dtype).dlpack,
                    lent->array.shape.data(),
                    lent->strides.data(),
                    0};
  managed.owner = lent.get();
  managed.deleter = [](Managed* held) { delete static_cast<Lent*>(held->owner); };
  if constexpr (std::is_same_v<Managed, dlpack::Versioned>) {
    managed.flags = array.read_only ? dlpack::kReadOnly : 0;
  }
  // Only a capsule that nobody took owns it still.
  py::capsule capsule(&managed, Managed::kName, [](PyObject* object) {
    if (!PyCapsule_IsValid(object, Managed::kName)) return;
    auto* held = static_cast<Managed*>(PyCapsule_GetPointer(object, Managed::kName));
    held->deleter(held);
  });
  (void)lent.release();
  return capsule;
}

[[noreturn]] void fail_export(const char* what) {
  PyErr_SetString(PyExc_BufferError, what);
  throw py::error_already_set();
}

// Everything that was to be written here has been: the caller's stream has nothing to wait for.
py::capsule to_dlpack(const Array& array, const py::object&, std::optional<std::pair<int, int>> max,
                      std::optional<std::pair<int, int>> wanted, std::optional<bool> copy) {
  const dlpack::Device device = dlpack_device(*array.device);
  if (copy.value_or(false) || (wanted && *wanted != std::pair(device.type, device.id))) {
    fail_export("[array] only the memory itself can be given; numpy() makes a copy");
  }
  if (max && max->first >= 1) return to_capsule<dlpack::Versioned>(array);
  if (array.read_only)
    fail_export("[array] is read-only, which before DLPack 1.0 nobody could say");
  return to_capsule<dlpack::Unversioned>(array);
}

py::dict to_cuda_array(const Array& array) {
  const char* numpy = names_of(array.dtype).numpy;
  if (!numpy) {
    throw py::attribute_error("[array] __cuda_array_interface__ has no name for bfloat16");
  }
  py::dict told;
  told["shape"] = py::tuple(py::cast(array.shape));
  told["typestr"] = numpy;
  told["data"] = py::make_tuple(reinterpret_cast<uintptr_t>(array.data), array.read_only);
  told["strides"] = py::none();
  told["stream"] = py::none();  // there is nothing to wait for
  told["version"] = 3;
  return told;
}

// ---- to and from NumPy

// The array, dense, in a type that NumPy has.
py::array in_numpy(const py::array& array, DType dtype) {
  const py::object as = array.attr("astype");
  return as(names_of(dtype).numpy, "order"_a = "C", "copy"_a = false);
}

Array from_numpy(const py::object& object, const std::string& name) {
  gpu::Device* device = device_of(name);
  require(device != nullptr, ErrorKind::invalid_argument,
          "[array] is for devices such as cuda; on the CPU use NumPy");
  const auto given = py::array::ensure(object);
  require(static_cast<bool>(given), ErrorKind::invalid_argument, "[array] needs an array");
  const char kind = given.dtype().kind();
  const bool whole = kind == 'i' || kind == 'u' || kind == 'b';
  const bool half = kind == 'f' && given.itemsize() == 2;
  const DType dtype = whole ? DType::i32 : half ? DType::f16 : DType::f32;
  const py::array dense = in_numpy(given, dtype);
  Array array = new_array(*device, dtype, Shape(dense.shape(), dense.shape() + dense.ndim()));
  const py::gil_scoped_release unlocked;
  const std::lock_guard turn(device->mutex());
  device->upload(array.data, dense.data(), array.bytes());
  return array;
}

void download(const Array& array, void* to) {
  const py::gil_scoped_release unlocked;
  const std::lock_guard turn(array.device->mutex());
  array.device->download(to, array.data, array.bytes());
}

py::array to_numpy(const Array& array) {
  if (const char* numpy = names_of(array.dtype).numpy) {
    py::array result(py::dtype(numpy), array.shape);
    download(array, result.mutable_data());
    return result;
  }
  py::array_t<float> result(array.shape);
  std::vector<bf16> values(static_cast<size_t>(element_count(array.shape)));
  download(array, values.data());
  float* to = result.mutable_data();
  for (const bf16 value : values) *to++ = to_float(value);
  return result;
}

py::object as_array(const Array& array, const py::object& dtype, const py::object& copy) {
  if (!copy.is_none() && !copy.cast<bool>()) {
    throw py::value_error("[array] what is on a device cannot be a NumPy array without a copy");
  }
  const py::array made = to_numpy(array);
  return dtype.is_none() ? py::object(made) : made.attr("astype")(dtype);
}

}  // namespace

Array share_array(const py::object& object, gpu::Device& device) {
  if (py::hasattr(object, "__dlpack__")) return from_dlpack(object, device);
  require(py::hasattr(object, "__cuda_array_interface__"), ErrorKind::invalid_argument,
          "[array] only what has __dlpack__ or __cuda_array_interface__ can be shared; "
          "DeviceArray.from_numpy copies all else");
  return from_cuda_array(object, device);
}

std::optional<Array> as_device_array(const py::object& object, gpu::Device& device) {
  if (py::isinstance<Array>(object)) {
    auto array = object.cast<Array>();
    require(array.device == &device, ErrorKind::invalid_argument, "[array] the array is on ",
            array.device->id(), ", and is wanted on ", device.id(), ": give its numpy()");
    return array;
  }
  if (py::hasattr(object, "__cuda_array_interface__")) return share_array(object, device);
  // PyTorch has that only for the types that NumPy has too.
  if (!py::hasattr(object, "__dlpack_device__")) return std::nullopt;
  const auto place = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  if (place.first != dlpack::cuda && place.first != dlpack::cuda_managed) return std::nullopt;
  return from_dlpack(object, device);
}

void init_device_array(py::module_& m) {
  py::class_<Array>(m, "DeviceArray",
                    "A dense array in the memory of a GPU, of float32, bfloat16, float16 or int32.")
      .def_static("from_numpy", &from_numpy, py::arg("array"), py::arg("device"),
                  "A copy on the device: whole numbers as int32, float16 as it is, all others as "
                  "float32.")
      .def_static(
          "share",
          [](const py::object& object, const std::string& name) {
            gpu::Device* device = device_of(name);
            require(device != nullptr, ErrorKind::invalid_argument,
                    "[array] is for devices such as cuda; on the CPU use NumPy");
            return share_array(object, *device);
          },
          py::arg("array"), py::arg("device"),
          "The same memory as another library's array on the device (PyTorch's, CuPy's), by "
          "__dlpack__ or __cuda_array_interface__.")
      .def("numpy", &to_numpy, "A copy in NumPy; bfloat16 as float32.")
      .def("__array__", &as_array, py::arg("dtype") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const Array& array) {
             const dlpack::Device device = dlpack_device(*array.device);
             return std::pair(device.type, device.id);
           })
      .def_property_readonly("__cuda_array_interface__", &to_cuda_array)
      .def("__repr__",
           [](const Array& array) {
             return concat("<DeviceArray ", dtype_name(array.dtype), " ", to_string(array.shape),
                           " on ", array.device->id(), ">");
           })
      .def_property_readonly("shape",
                             [](const Array& array) { return py::tuple(py::cast(array.shape)); })
      .def_property_readonly("dtype", [](const Array& array) { return dtype_name(array.dtype); })
      .def_property_readonly("nbytes", &Array::bytes)
      .def_property_readonly("device", [](const Array& array) { return array.device->id(); });
}

}  // namespace sdcore::bindings
