// Every kernel that is not a matrix product with a weight, on NumPy float32 arrays.
#include "bindings/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <ctime>
#include <functional>
#include <limits>
#include <map>

#include "base/buffer.h"
#include "base/error.h"
#include "kernels/attention/attention.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/embedding.h"
#include "kernels/norm/norm.h"
#include "kernels/resample/resample.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace sdcore::bindings {
namespace {

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;
using OptionalArray = std::optional<Array>;
using Ids = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// How a kernel is to be called.
struct Options {
  std::string dtype, out_dtype;
  std::optional<std::string> isa;
  std::optional<int> threads;
  int64_t pad_channels;  // > 0: views are slices of buffers wider by this
  int halo;              // of out
};

DType parse_dtype(const std::string& name) {
  if (name == "f32") return DType::f32;
  require(name == "bf16", ErrorKind::invalid_argument, "[dtype] must be f32 or bf16, got ", name);
  return DType::bf16;
}

// A buffer around a view: everything that is not the view is NaN, and must still be so afterwards.
class Plane {
 public:
  Plane(DType dtype, const Shape& shape, int64_t pad_channels, int halo)
      : shape_(shape), pad_(pad_channels), halo_(halo) {
    const auto rank = shape.size();
    require(rank >= 2 && rank <= 4, ErrorKind::invalid_argument,
            "[array] must have 2 to 4 dimensions, got ", to_string(shape));
    view.dtype = dtype;
    view.n = shape.front();
    view.h = rank == 4 ? shape[1] : 1;
    view.w = rank == 2 ? 1 : shape[rank - 2];
    view.c = shape.back();
    view.halo = halo;
    view.stride_w = view.c + pad_;
    view.stride_h = (view.w + 2 * halo) * view.stride_w;
    view.stride_n = (view.h + 2 * halo) * view.stride_h;
    const int64_t elements = view.n * view.stride_n, size = dtype_size(dtype);
    memory_ = Buffer(static_cast<size_t>(elements * size));
    for (int64_t i = 0; i < elements; ++i) put(i, std::numeric_limits<float>::quiet_NaN());
    view.data = memory_.data() + (halo * view.stride_h + halo * view.stride_w + pad_ / 2) * size;
  }
  Plane(DType dtype, const Array& array, int64_t pad_channels)
      : Plane(dtype, Shape(array.shape(), array.shape() + array.ndim()), pad_channels, 0) {
    const float* from = array.data();
    for_elements([&](int64_t i, bool inside) {
      if (inside) put(i, *from++);
    });
  }

  Array array() const {
    Array result(std::vector<py::ssize_t>(shape_.begin(), shape_.end()));
    float* to = result.mutable_data();
    for_elements([&](int64_t i, bool inside) {
      if (inside) {
        *to++ = get(i);
      } else {
        require(std::isnan(get(i)), ErrorKind::internal, "[test] element ", i,
                " outside the output was written");
      }
    });
    return result;
  }

  View view;

 private:
  template <class Body>
  void for_elements(Body body) const {
    const int64_t width = view.stride_w, row = view.stride_h / width;
    const auto within = [&](int64_t at, int64_t size) { return at >= halo_ && at < halo_ + size; };
    for (int64_t i = 0; i < view.n * view.stride_n; ++i) {
      const int64_t pixel = i / width, channel = i % width - pad_ / 2;
      body(i, channel >= 0 && channel < view.c && within(pixel % row, view.w) &&
                  within(pixel / row % (view.h + 2 * halo_), view.h));
    }
  }
  void put(int64_t i, float x) {
    if (view.dtype == DType::f32) {
      reinterpret_cast<float*>(memory_.data())[i] = x;
    } else {
      reinterpret_cast<bf16*>(memory_.data())[i] = to_bf16(x);
    }
  }
  float get(int64_t i) const {
    if (view.dtype == DType::f32) return reinterpret_cast<const float*>(memory_.data())[i];
    return to_float(reinterpret_cast<const bf16*>(memory_.data())[i]);
  }

  Buffer memory_;
  Shape shape_;
  int64_t pad_;
  int halo_;
};

// The arguments of one call and where its result goes.
class Call {
 public:
  explicit Call(const Options& options) : options_(options) {
    pool_ = options.threads ? shared_pool(*options.threads) : default_pool();
    isa_ = options.isa ? parse_isa(*options.isa) : default_isa();
    require(permits(hardware_isa(), isa_), ErrorKind::invalid_argument,
            "[isa] this processor lacks ", isa_name(isa_));
  }

  KernelContext context() const { return {*pool_, isa_}; }
  View in(const Array& array) {
    planes_.emplace_back(parse_dtype(options_.dtype), array, options_.pad_channels);
    return planes_.back().view;
  }
  View f32(const Array& array) {
    planes_.emplace_back(DType::f32, array, 0);
    return planes_.back().view;
  }
  View out(const Shape& shape) {
    const std::string& name = options_.out_dtype.empty() ? options_.dtype : options_.out_dtype;
    out_.emplace(parse_dtype(name), shape, options_.pad_channels, options_.halo);
    return out_->view;
  }
  View out_like(const Array& array) {
    return out(Shape(array.shape(), array.shape() + array.ndim()));
  }
  // Filled with ones (NaN), since contents may be anything.
  void* workspace(size_t bytes) {
    workspace_ = Buffer(bytes);
    std::fill_n(workspace_.data(), bytes, std::byte{0xff});
    return workspace_.data();
  }
  const float* vector(const OptionalArray& array) {
    if (!array) return nullptr;
    vectors_.push_back(*array);
    return vectors_.back().data();
  }
  const int32_t* ids(const Ids& array) {
    ids_ = array;
    return ids_.data();
  }

  std::function<void()> run;

  Array result() {
    run_released();
    return out_->array();
  }
  // Wall and processor seconds of a call, each the best of several stretches of `stretch` seconds.
  // The second, on one thread, is sound on a busy machine too.
  std::pair<double, double> seconds(double stretch) {
    run_released();
    std::pair best(std::numeric_limits<double>::infinity(),
                   std::numeric_limits<double>::infinity());
    for (int round = 0; round < 5; ++round) {
      const auto start = std::chrono::steady_clock::now();
      const std::clock_t processor = std::clock();
      double wall = 0;
      int calls = 0;
      for (; wall < stretch; ++calls) {
        run_released();
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
        wall = passed.count();
      }
      const double used = static_cast<double>(std::clock() - processor) / CLOCKS_PER_SEC;
      best = {std::min(best.first, wall / calls), std::min(best.second, used / calls)};
    }
    return best;
  }

 private:
  void run_released() {
    const py::gil_scoped_release release;
    run();
  }

  Options options_;
  std::shared_ptr<ThreadPool> pool_;
  Isa isa_;
  std::vector<Plane> planes_;
  std::vector<Array> vectors_;
  std::optional<Plane> out_;
  Ids ids_;
  Buffer workspace_;
};

Activation parse_activation(const std::string& name) {
  constexpr std::array names = {"none", "silu", "gelu", "gelu_tanh", "quick_gelu", "relu"};
  for (size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<Activation>(i);
  }
  fail(ErrorKind::invalid_argument, "[activation] unknown: '", name, "'");
}

// Each of these fills in `call.run` from Python's arguments.

void prepare_attention(Call& call, const Array& q, const Array& k, const Array& v, int heads,
                       bool causal, std::optional<float> scale, const OptionalArray& relative,
                       const OptionalArray& mask) {
  AttentionArgs args{call.in(q), call.in(k), call.in(v), call.out_like(q), heads, 1.0f, causal};
  const auto d = static_cast<float>(args.q.c / std::max(heads, 1));
  args.scale = scale.value_or(1.0f / std::sqrt(d));
  if (relative) args.relative = call.in(*relative);
  if (mask) args.mask = call.in(*mask);
  args.workspace = call.workspace(attention_workspace(args, call.context()));
  call.run = [args, &call] { attention(args, call.context()); };
}

void prepare_group_norm(Call& call, const Array& x, const OptionalArray& w, const OptionalArray& b,
                        int groups, float eps, const std::string& activation) {
  GroupNormArgs args{call.in(x),
                     call.out_like(x),
                     call.vector(w),
                     call.vector(b),
                     groups,
                     eps,
                     parse_activation(activation)};
  args.workspace = call.workspace(group_norm_workspace(args, call.context()));
  call.run = [args, &call] { group_norm(args, call.context()); };
}

void prepare_layer_norm(Call& call, const Array& x, const OptionalArray& w, const OptionalArray& b,
                        float eps, const OptionalArray& scale, const OptionalArray& shift) {
  LayerNormArgs args{call.in(x), call.out_like(x), call.vector(w), call.vector(b), eps};
  if (scale) args.scale = call.in(*scale);
  if (shift) args.shift = call.in(*shift);
  args.workspace = call.workspace(layer_norm_workspace(args, call.context()));
  call.run = [args, &call] { layer_norm(args, call.context()); };
}

void prepare_rms_norm(Call& call, const Array& x, const Array& weight, float eps) {
  const RmsNormArgs args{call.in(x), call.out_like(x), call.vector(weight), weight.size(), eps};
  call.run = [args, &call] { rms_norm(args, call.context()); };
}

void prepare_unary(Call& call, const Array& x, const std::string& activation) {
  const UnaryArgs args{call.in(x), call.out_like(x), parse_activation(activation)};
  call.run = [args, &call] { unary(args, call.context()); };
}

void prepare_binary(Call& call, const Array& a, const Array& b, const std::string& op) {
  const std::map<std::string, BinaryOp> ops = {
      {"add", BinaryOp::add}, {"mul", BinaryOp::mul}, {"prelu", BinaryOp::prelu}};
  const auto found = ops.find(op);
  require(found != ops.end(), ErrorKind::invalid_argument, "[binary] unknown: '", op, "'");
  const BinaryArgs args{call.in(a), call.in(b), call.out_like(a), found->second};
  call.run = [args, &call] { binary(args, call.context()); };
}

void prepare_geglu(Call& call, const Array& x) {
  Shape shape(x.shape(), x.shape() + x.ndim());
  shape.back() /= 2;
  const GegluArgs args{call.in(x), call.out(shape)};
  call.run = [args, &call] { geglu(args, call.context()); };
}

void prepare_scale(Call& call, const Array& x, float factor) {
  const ScaleArgs args{call.in(x), call.out_like(x), factor};
  call.run = [args, &call] { scale(args, call.context()); };
}

void prepare_timestep_embedding(Call& call, const Array& t, int64_t dim, bool flip_sin_to_cos,
                                float downscale_freq_shift, float max_period) {
  const TimestepEmbeddingArgs args{call.f32(t.attr("reshape")(-1, 1)), call.out({t.size(), dim}),
                                   flip_sin_to_cos, downscale_freq_shift, max_period};
  call.run = [args, &call] { timestep_embedding(args, call.context()); };
}

void prepare_upsample_nearest(Call& call, const Array& x, std::pair<int64_t, int64_t> size) {
  require(x.ndim() == 4, ErrorKind::invalid_argument, "[upsample_nearest] x must be [n, h, w, c]");
  const UpsampleArgs args{call.in(x), call.out({x.shape(0), size.first, size.second, x.shape(3)})};
  call.run = [args, &call] { upsample_nearest(args, call.context()); };
}

void prepare_pool2d(Call& call, const Array& x, const std::string& kind,
                    std::pair<int64_t, int64_t> kernel, int64_t stride,
                    std::pair<int64_t, int64_t> padding, std::pair<int64_t, int64_t> size) {
  require(x.ndim() == 4, ErrorKind::invalid_argument, "[pool2d] x must be [n, h, w, c]");
  const PoolArgs args{call.in(x),
                      call.out({x.shape(0), size.first, size.second, x.shape(3)}),
                      kind == "max" ? Pooling::max : Pooling::mean,
                      kernel.first,
                      kernel.second,
                      stride,
                      padding.first,
                      padding.second};
  call.run = [args, &call] { pool2d(args, call.context()); };
}

void prepare_depth_to_space(Call& call, const Array& x, int64_t size) {
  require(x.ndim() == 4, ErrorKind::invalid_argument, "[depth_to_space] x must be [n, h, w, c]");
  const DepthToSpaceArgs args{call.in(x), call.out({x.shape(0), x.shape(1) * size,
                                                    x.shape(2) * size, x.shape(3) / size / size})};
  call.run = [args, &call] { depth_to_space(args, call.context()); };
}

void prepare_embedding(Call& call, const Ids& ids, const py::buffer& table,
                       std::pair<int64_t, int64_t> shape, const std::string& type) {
  require(ids.ndim() == 2, ErrorKind::invalid_argument, "[embedding] ids must be [n, t]");
  const TypeInfo* info = find_type(type);
  require(info != nullptr, ErrorKind::invalid_argument, "[embedding] unknown type ", type);
  const auto held = std::make_shared<py::buffer_info>(table.request());
  const Tensor rows{held->ptr, info->type, {shape.first, shape.second}, held};
  require(held->size * held->itemsize == storage_bytes(rows.type, rows.shape),
          ErrorKind::invalid_argument, "[embedding] table has ", held->size * held->itemsize,
          " bytes, not what its shape takes");
  const int64_t n = ids.shape(0), t = ids.shape(1);
  const View view = dense_view(const_cast<int32_t*>(call.ids(ids)), DType::i32, n, 1, t, 1);
  const EmbeddingArgs args{view, rows, call.out({n, t, shape.second})};
  call.run = [args, &call] { embedding(args, call.context()); };
}

// Defines name(…) -> array and bench_name(…) -> (wall, processor) seconds a
// call, both with the options as further
// keyword arguments.
template <class... Args, class... Extra>
void define(py::module_& m, const std::string& name, void (*prepare)(Call&, Args...),
            const Extra&... extra) {
  const auto add = [&](const std::string& full_name, auto finish) {
    m.def(
        full_name.c_str(),
        [prepare, finish](Args... args, const std::string& dtype, const std::string& out_dtype,
                          const std::optional<std::string>& isa, std::optional<int> threads,
                          int64_t pad_channels, int halo) {
          Call call({dtype, out_dtype, isa, threads, pad_channels, halo});
          prepare(call, args...);
          return finish(call);
        },
        extra..., py::kw_only(), "dtype"_a = "f32", "out_dtype"_a = "", "isa"_a = py::none(),
        "threads"_a = py::none(), "pad_channels"_a = 0, "halo"_a = 0);
  };
  add(name, [](Call& call) { return call.result(); });
  add(concat("bench_", name), [](Call& call) { return call.seconds(0.05); });
}

std::vector<std::string> variants(const std::string& family) {
  if (family == "elementwise") return elementwise_variants();
  if (family == "norm") return norm_variants();
  if (family == "attention") return attention_variants();
  throw py::reference_cast_error();  // another file's family: pybind11 tries its overload
}

}  // namespace

void init_kernels_other(py::module_& m) {
  m.def("variants", &variants, "family"_a);
  define(m, "attention", prepare_attention, "q"_a, "k"_a, "v"_a, "heads"_a, "causal"_a = false,
         "scale"_a = py::none(), "relative"_a = py::none(), "mask"_a = py::none());
  define(m, "group_norm", prepare_group_norm, "x"_a, "weight"_a, "bias"_a, "groups"_a,
         "eps"_a = 1e-5f, "activation"_a = "none");
  define(m, "layer_norm", prepare_layer_norm, "x"_a, "weight"_a = py::none(), "bias"_a = py::none(),
         "eps"_a = 1e-5f, "scale"_a = py::none(), "shift"_a = py::none());
  define(m, "rms_norm", prepare_rms_norm, "x"_a, "weight"_a, "eps"_a = 1e-6f);
  define(m, "unary", prepare_unary, "x"_a, "activation"_a);
  define(m, "binary", prepare_binary, "a"_a, "b"_a, "op"_a);
  define(m, "geglu", prepare_geglu, "x"_a);
  define(m, "scale", prepare_scale, "x"_a, "factor"_a);
  define(m, "timestep_embedding", prepare_timestep_embedding, "t"_a, "dim"_a,
         "flip_sin_to_cos"_a = true, "downscale_freq_shift"_a = 0.0f, "max_period"_a = 10000.0f);
  define(m, "upsample_nearest", prepare_upsample_nearest, "x"_a, "size"_a);
  define(m, "pool2d", prepare_pool2d, "x"_a, "kind"_a, "kernel"_a, "stride"_a, "padding"_a,
         "size"_a);
  define(m, "depth_to_space", prepare_depth_to_space, "x"_a, "size"_a);
  define(m, "embedding", prepare_embedding, "ids"_a, "table"_a, "shape"_a, "type"_a);
}

}  // namespace sdcore::bindings
