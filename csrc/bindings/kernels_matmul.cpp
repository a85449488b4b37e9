// linear and conv2d on NumPy arrays, in memory laid out to catch mistakes: what a kernel must not
// read holds NaN, and what it must not write is checked afterwards.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <optional>

#include "bindings/bindings.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/gemm/packed_weight.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;

constexpr float kSentinel = -12345.0f;

DType parse_dtype(const std::string& name) {
  if (name == "f32") return DType::f32;
  require(name == "bf16", ErrorKind::invalid_argument, "[kernels] dtype must be f32 or bf16, got ",
          name);
  return DType::bf16;
}

Activation parse_activation(const std::string& name) {
  constexpr const char* names[] = {"none", "silu", "gelu", "gelu_tanh", "quick_gelu", "relu"};
  for (uint8_t i = 0; i < std::size(names); ++i) {
    if (name == names[i]) return static_cast<Activation>(i);
  }
  fail(ErrorKind::invalid_argument, "[kernels] unknown activation '", name, "'");
}

// An image inside a larger block of memory: `slack` foreign channels after each pixel's own, a
// halo, and foreign values before and after everything.
class GuardedImage {
 public:
  GuardedImage(DType dtype, std::array<int64_t, 4> shape, int halo, int64_t slack, float filler)
      : filler_(filler) {
    const auto [n, h, w, c] = shape;
    const int64_t stride_w = c + slack, stride_h = (w + 2 * halo) * stride_w;
    const int64_t stride_n = (h + 2 * halo) * stride_h;
    elements_ = n * stride_n + 2 * kMargin;
    memory_ = Buffer(static_cast<size_t>(elements_ * dtype_size(dtype)));
    view_ = {nullptr, dtype, n, h, w, c, stride_n, stride_h, stride_w, halo};
    view_.data = memory_.data() + (kMargin + halo * (stride_h + stride_w)) * dtype_size(dtype);
    for (int64_t i = 0; i < elements_; ++i) set(memory_.data(), i, filler);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t y = -halo; y < h + halo; ++y) {
        for (int64_t x = -halo; x < w + halo; ++x) {
          const bool inside = y >= 0 && y < h && x >= 0 && x < w;
          if (inside) continue;
          for (int64_t j = 0; j < c; ++j) set(view_.data, offset(i, y, x) + j, 0.0f);
        }
      }
    }
  }

  const View& view() const { return view_; }

  void fill(const float* values) {
    each([&](int64_t at, int64_t i) { set(view_.data, at, values[i]); });
  }
  // The values; throws when anything else in the block has changed.
  Array take(std::vector<py::ssize_t> shape) {
    Array out(std::move(shape));
    float* values = out.mutable_data();
    each([&](int64_t at, int64_t i) { values[i] = get(view_.data, at); });
    each([&](int64_t at, int64_t) { set(view_.data, at, filler_); });
    require(view_.halo == 0, ErrorKind::internal, "[kernels] an output with a halo");
    for (int64_t i = 0; i < elements_; ++i) {
      require(get(memory_.data(), i) == stored(filler_), ErrorKind::internal,
              "[kernels] wrote outside of the output, at element ", i);
    }
    return out;
  }

 private:
  static constexpr int64_t kMargin = 64;

  int64_t offset(int64_t n, int64_t y, int64_t x) const {
    return n * view_.stride_n + y * view_.stride_h + x * view_.stride_w;
  }
  template <class Body>
  void each(Body body) const {
    int64_t i = 0;
    for (int64_t n = 0; n < view_.n; ++n) {
      for (int64_t y = 0; y < view_.h; ++y) {
        for (int64_t x = 0; x < view_.w; ++x) {
          for (int64_t c = 0; c < view_.c; ++c) body(offset(n, y, x) + c, i++);
        }
      }
    }
  }
  float stored(float value) const {
    return view_.dtype == DType::bf16 ? to_float(to_bf16(value)) : value;
  }
  void set(void* data, int64_t i, float value) {
    if (view_.dtype == DType::bf16) {
      static_cast<bf16*>(data)[i] = to_bf16(value);
    } else {
      static_cast<float*>(data)[i] = value;
    }
  }
  float get(const void* data, int64_t i) const {
    return view_.dtype == DType::bf16 ? to_float(static_cast<const bf16*>(data)[i])
                                      : static_cast<const float*>(data)[i];
  }

  float filler_;
  int64_t elements_ = 0;
  Buffer memory_;
  View view_;
};

Tensor as_tensor(const py::object& weight, Array& keep) {
  if (py::isinstance<Tensor>(weight)) return weight.cast<Tensor>();
  keep = Array::ensure(weight);
  require(static_cast<bool>(keep), ErrorKind::invalid_argument, "[kernels] weight is not an array");
  return {keep.data(), Type::f32, Shape(keep.shape(), keep.shape() + keep.ndim()), nullptr};
}

struct Machine {
  std::shared_ptr<ThreadPool> pool;
  KernelContext context;

  Machine(const std::optional<std::string>& isa, std::optional<int> threads)
      : pool(threads ? shared_pool(*threads) : default_pool()),
        context{*pool, isa ? parse_isa(*isa) : default_isa()} {
    require(permits(hardware_isa(), context.isa), ErrorKind::invalid_argument,
            "[kernels] this processor has no ", isa_name(context.isa));
  }
};

// Bias, image bias and residual as a kernel is given them, and the memory that they lie in.
struct GuardedEpilogue {
  Epilogue epilogue;
  std::optional<GuardedImage> image_bias, residual;

  GuardedEpilogue(const std::optional<Array>& bias, const std::optional<Array>& per_image,
                  const std::optional<Array>& added, const std::string& activation, const View& out,
                  int64_t slack) {
    const float nan = std::nanf("");
    epilogue.activation = parse_activation(activation);
    if (bias) epilogue.bias = bias->data();
    if (per_image) {
      image_bias.emplace(out.dtype, std::array<int64_t, 4>{out.n, 1, 1, out.c}, 0, slack, nan);
      image_bias->fill(per_image->data());
      epilogue.image_bias = image_bias->view();
    }
    if (added) {
      residual.emplace(out.dtype, std::array<int64_t, 4>{out.n, out.h, out.w, out.c}, 0, slack,
                       nan);
      residual->fill(added->data());
      epilogue.residual = residual->view();
    }
  }
};

Array run_linear(const Array& x, const py::object& w, const std::optional<Array>& bias,
                 const std::optional<Array>& image_bias, const std::optional<Array>& residual,
                 const std::string& activation, const std::string& dtype,
                 const std::optional<std::string>& out_dtype, const std::optional<std::string>& isa,
                 std::optional<int> threads, int64_t slack, bool int8_activations) {
  require(x.ndim() == 2 || x.ndim() == 3, ErrorKind::invalid_argument,
          "[linear] x must be [tokens, c] or [n, tokens, c]");
  const Machine machine(isa, threads);
  const DType type = parse_dtype(dtype), to = parse_dtype(out_dtype.value_or(dtype));
  const int64_t n = x.ndim() == 3 ? x.shape(0) : 1;
  const int64_t tokens = x.shape(x.ndim() - 2), c = x.shape(x.ndim() - 1);
  Array keep;
  const Tensor weight = as_tensor(w, keep);
  const PackedWeightPtr packed = pack_weight(weight, type, machine.context, int8_activations);
  GuardedImage in(type, {n, 1, tokens, c}, 0, slack, std::nanf(""));
  in.fill(x.data());
  GuardedImage out(to, {n, 1, tokens, packed->outputs}, 0, slack, kSentinel);
  const GuardedEpilogue e(bias, image_bias, residual, activation, out.view(), slack);
  linear({in.view(), out.view(), packed, e.epilogue}, machine.context);
  std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
  shape.back() = packed->outputs;
  return out.take(std::move(shape));
}

Array run_conv2d(const Array& x, const py::object& w, const std::optional<Array>& bias,
                 const std::optional<Array>& image_bias, const std::optional<Array>& residual,
                 const std::string& activation, int stride, std::array<int, 4> padding, int halo,
                 const std::string& dtype, const std::optional<std::string>& out_dtype,
                 const std::optional<std::string>& isa, std::optional<int> threads, int64_t slack) {
  require(x.ndim() == 4, ErrorKind::invalid_argument, "[conv2d] x must be [n, h, w, c]");
  const Machine machine(isa, threads);
  const DType type = parse_dtype(dtype), to = parse_dtype(out_dtype.value_or(dtype));
  Array keep;
  const Tensor weight = as_tensor(w, keep);
  require(weight.shape.size() == 4, ErrorKind::invalid_argument,
          "[conv2d] w must be [o, i, kh, kw]");
  const auto [top, left, bottom, right] = padding;
  const int64_t kh = weight.shape[2], kw = weight.shape[3];
  const int64_t oh = (x.shape(1) + top + bottom - kh) / stride + 1;
  const int64_t ow = (x.shape(2) + left + right - kw) / stride + 1;
  GuardedImage in(type, {x.shape(0), x.shape(1), x.shape(2), x.shape(3)}, halo, slack,
                  std::nanf(""));
  in.fill(x.data());
  GuardedImage out(to, {x.shape(0), oh, ow, weight.shape[0]}, 0, slack, kSentinel);
  const GuardedEpilogue e(bias, image_bias, residual, activation, out.view(), slack);
  Conv2dArgs args{in.view(),
                  out.view(),
                  pack_conv2d_weight(weight, type, machine.context),
                  static_cast<int>(kh),
                  static_cast<int>(kw),
                  stride,
                  top,
                  left,
                  e.epilogue,
                  nullptr};
  const size_t bytes = conv2d_workspace(args, machine.context);
  const Buffer workspace(bytes);
  if (bytes) std::memset(workspace.data(), 0xff, bytes);  // NaN
  args.workspace = workspace.data();
  conv2d(args, machine.context);
  return out.take({x.shape(0), oh, ow, weight.shape[0]});
}

// Small values of both signs; a multiplicative hash is random enough for a benchmark.
Buffer random_values(DType dtype, int64_t count) {
  Buffer memory(static_cast<size_t>(count * dtype_size(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const auto hash = static_cast<uint32_t>(i) * 2654435761u;
    const float value = static_cast<float>(hash >> 16) / 65536.0f - 0.5f;
    if (dtype == DType::bf16) {
      reinterpret_cast<bf16*>(memory.data())[i] = to_bf16(value);
    } else {
      reinterpret_cast<float*>(memory.data())[i] = value;
    }
  }
  return memory;
}

// Floats as a file holds them: what has no rows of whole blocks is folded.
Tensor stored_as(const std::string& type, const Buffer& values, const Shape& shape,
                 ThreadPool& pool) {
  const TypeInfo* info = find_type(type);
  require(info != nullptr, ErrorKind::invalid_argument, "[kernels] unknown type '", type, "'");
  const Tensor plain{values.data(), Type::f32, shape, nullptr};
  if (info->type == Type::f32) return plain;
  if (storage_bytes(info->type, shape) >= 0) return convert(plain, info->type, pool);
  const Shape folded{element_count(shape) / info->block_size, info->block_size};
  return unfold(convert(reshape(plain, folded), info->type, pool), shape);
}

// `copies` weights take turns, so that each is read from memory again as in a real network.
std::vector<PackedWeightPtr> bench_weights(const Shape& shape, const std::string& type, DType dtype,
                                           int copies, const KernelContext& context,
                                           bool int8_activations = false) {
  const Buffer values = random_values(DType::f32, element_count(shape));
  std::vector<PackedWeightPtr> weights;
  for (int i = 0; i < copies; ++i) {
    const Tensor stored = stored_as(type, values, shape, context.pool);
    weights.push_back(shape.size() == 4 ? pack_conv2d_weight(stored, dtype, context)
                                        : pack_weight(stored, dtype, context, int8_activations));
  }
  return weights;
}

double seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Seconds of the fastest of `repeats` calls; of one thread its processor time, which other work on
// the machine disturbs less.
template <class Body>
double fastest(int repeats, const KernelContext& context, Body body) {
  const clockid_t clock = context.pool.size() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const double begin = seconds(clock);
    body(i);
    best = std::min(best, seconds(clock) - begin);
  }
  return best;
}

double bench_conv2d(std::array<int64_t, 4> shape, int64_t outputs, int kernel, int stride,
                    const std::string& dtype, const std::string& weight_type,
                    const std::optional<std::string>& isa, std::optional<int> threads, int copies,
                    int repeats) {
  const py::gil_scoped_release unlocked;
  const Machine machine(isa, threads);
  const DType type = parse_dtype(dtype);
  const auto [n, h, w, c] = shape;
  const int pad = kernel / 2;
  const int64_t oh = (h + 2 * pad - kernel) / stride + 1, ow = (w + 2 * pad - kernel) / stride + 1;
  const int64_t ph = h + 2 * pad, pw = w + 2 * pad;
  const Buffer input = random_values(type, n * ph * pw * c);
  const Buffer output(static_cast<size_t>(n * oh * ow * outputs * dtype_size(type)));
  const Buffer bias = random_values(DType::f32, outputs);
  const auto weights =
      bench_weights({outputs, c, kernel, kernel}, weight_type, type, copies, machine.context);
  View in = dense_view(input.data(), type, n, ph, pw, c);
  in.data = in.at<std::byte>(0, 0, (pad * pw + pad) * dtype_size(type));
  in.h = h;
  in.w = w;
  in.halo = pad;
  Conv2dArgs args{in,     dense_view(output.data(), type, n, oh, ow, outputs),
                  {},     kernel,
                  kernel, stride,
                  pad,    pad,
                  {},     nullptr};
  args.epilogue.bias = reinterpret_cast<const float*>(bias.data());
  const Buffer workspace(conv2d_workspace(args, machine.context));
  args.workspace = workspace.data();
  return fastest(repeats, machine.context, [&](int i) {
    args.weight = weights[static_cast<size_t>(i % copies)];
    conv2d(args, machine.context);
  });
}

double bench_linear(int64_t tokens, int64_t inputs, int64_t outputs, const std::string& dtype,
                    const std::string& weight_type, const std::optional<std::string>& isa,
                    std::optional<int> threads, int copies, int repeats, bool int8_activations) {
  const py::gil_scoped_release unlocked;
  const Machine machine(isa, threads);
  const DType type = parse_dtype(dtype);
  const Buffer input = random_values(type, tokens * inputs);
  const Buffer output(static_cast<size_t>(tokens * outputs * dtype_size(type)));
  const Buffer bias = random_values(DType::f32, outputs);
  const auto weights = bench_weights({outputs, inputs}, weight_type, type, copies, machine.context,
                                     int8_activations);
  LinearArgs args{dense_view(input.data(), type, 1, 1, tokens, inputs),
                  dense_view(output.data(), type, 1, 1, tokens, outputs),
                  {},
                  {}};
  args.epilogue.bias = reinterpret_cast<const float*>(bias.data());
  return fastest(repeats, machine.context, [&](int i) {
    args.weight = weights[static_cast<size_t>(i % copies)];
    linear(args, machine.context);
  });
}

double bench_pack(const Shape& shape, const std::string& dtype, const std::string& weight_type,
                  const std::optional<std::string>& isa, std::optional<int> threads, int repeats) {
  const py::gil_scoped_release unlocked;
  const Machine machine(isa, threads);
  const Buffer values = random_values(DType::f32, element_count(shape));
  const Tensor weight = stored_as(weight_type, values, shape, *machine.pool);
  return fastest(repeats, machine.context, [&](int) {
    shape.size() == 4 ? pack_conv2d_weight(weight, parse_dtype(dtype), machine.context)
                      : pack_weight(weight, parse_dtype(dtype), machine.context);
  });
}

py::list list_variants() {
  py::list rows;
  for (const gemm::Variant* variant : gemm::variants()) {
    py::dict row;
    row["name"] = variant->name;
    row["isa"] = isa_name(variant->isa);
    row["dtype"] = dtype_name(variant->dtype);
    row["integers"] = variant->block_bytes > 0;
    row["int8"] = variant->int8;
    row["widens"] = variant->widens;
    rows.append(row);
  }
  return rows;
}

// The name of the variant that multiplies a weight.
std::string variant_of(const py::object& w, const std::string& dtype,
                       const std::optional<std::string>& isa, bool int8_activations) {
  const Machine machine(isa, 1);
  Array keep;
  return pack_weight(as_tensor(w, keep), parse_dtype(dtype), machine.context, int8_activations)
      ->variant->name;
}

}  // namespace

void init_kernels_matmul(py::module_& m) {
  const auto none = py::none();
  m.def("gemm_variants", &list_variants);
  m.def("gemm_variant", &variant_of, py::arg("w"), py::arg("dtype") = "f32", py::arg("isa") = none,
        py::arg("int8_activations") = false);
  m.def("linear", &run_linear, py::arg("x"), py::arg("w"), py::arg("bias") = none,
        py::arg("image_bias") = none, py::arg("residual") = none, py::arg("activation") = "none",
        py::arg("dtype") = "f32", py::arg("out_dtype") = none, py::arg("isa") = none,
        py::arg("threads") = none, py::arg("slack") = 3, py::arg("int8_activations") = false);
  m.def("conv2d", &run_conv2d, py::arg("x"), py::arg("w"), py::arg("bias") = none,
        py::arg("image_bias") = none, py::arg("residual") = none, py::arg("activation") = "none",
        py::arg("stride") = 1, py::arg("padding") = std::array<int, 4>{0, 0, 0, 0},
        py::arg("halo") = 0, py::arg("dtype") = "f32", py::arg("out_dtype") = none,
        py::arg("isa") = none, py::arg("threads") = none, py::arg("slack") = 3);
  m.def("bench_conv2d", &bench_conv2d, py::arg("shape"), py::arg("outputs"), py::arg("kernel") = 3,
        py::arg("stride") = 1, py::arg("dtype") = "bf16", py::arg("weight_type") = "f32",
        py::arg("isa") = none, py::arg("threads") = none, py::arg("copies") = 1,
        py::arg("repeats") = 10);
  m.def("bench_linear", &bench_linear, py::arg("tokens"), py::arg("inputs"), py::arg("outputs"),
        py::arg("dtype") = "bf16", py::arg("weight_type") = "f32", py::arg("isa") = none,
        py::arg("threads") = none, py::arg("copies") = 1, py::arg("repeats") = 10,
        py::arg("int8_activations") = false);
  m.def("bench_pack", &bench_pack, py::arg("shape"), py::arg("dtype") = "bf16",
        py::arg("weight_type") = "f16", py::arg("isa") = none, py::arg("threads") = none,
        py::arg("repeats") = 3);
}

}  // namespace sdcore::bindings
