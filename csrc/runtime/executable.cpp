#include "runtime/executable.h"

#include <chrono>
#include <cstring>

#include "base/error.h"
#include "graph/ops/linear.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/gemm/integers.h"
#include "kernels/gemm/packed_weight.h"

namespace sdcore {
namespace {

// Weights that an op reads as a plain value, such as position embeddings.
View constant_view(const Value& value, const View& sizes, WeightStore& weights,
                   gpu::Device* device) {
  View view = sizes;
  view.data = const_cast<float*>(weights.vector(value.name, value.shape, device));
  return view;
}

// An op reads one matrix at most.
gpu::Streamed* streamed_among(const std::vector<PackedWeightPtr>& weights) {
  require(weights.size() <= 1, ErrorKind::internal, "[executable] a step reads ", weights.size(),
          " matrices");
  return weights.empty() ? nullptr : weights.front()->streamed.get();
}

// The border of a value is part of memory that other values used before: zero it each time.
void zero_halo(const View& v) {
  const int64_t size = dtype_size(v.dtype);
  const auto clear = [&](int64_t n, int64_t y, int64_t x, int64_t pixels) {
    std::memset(
        static_cast<std::byte*>(v.data) + (n * v.stride_n + y * v.stride_h + x * v.stride_w) * size,
        0, static_cast<size_t>(pixels * v.stride_w * size));
  };
  const int64_t row = v.w + 2 * v.halo;
  for (int64_t n = 0; n < v.n; ++n) {
    for (int64_t y = -v.halo; y < v.h + v.halo; ++y) {
      if (y < 0 || y >= v.h) {
        clear(n, y, -v.halo, row);
      } else {
        clear(n, y, -v.halo, v.halo);
        clear(n, y, v.w, v.halo);
      }
    }
  }
}

View dense_like(const View& v, DType dtype, void* data) {
  return dense_view(data, dtype, v.n, v.h, v.w, v.c);
}

std::string label_of(const Graph& graph, const Node& node) {
  for (const ValueId id : node.inputs) {
    if (id != kAbsent && graph.value(id).kind == Value::Kind::weight) {
      return concat(node.op->name, ' ', graph.value(id).name);
    }
  }
  return node.op->name;
}

// Of a step that multiplies rows with a matrix, all of its input.
void add_squares(const Graph& graph, const Node& node, const std::vector<View>& views,
                 std::map<std::string, InputSquares>& squares) {
  if (node.inputs.size() < 2 || node.op->inputs.size() < 2 || node.inputs[1] == kAbsent) return;
  const Value& weight = graph.value(node.inputs[1]);
  const View& in = views[static_cast<size_t>(node.inputs[0])];
  if (node.op->inputs[1].kind != Op::Input::weight || weight.shape.size() != 2) return;
  if (in.dtype == DType::i32 || in.c != weight.shape[1]) return;
  InputSquares& found = squares[weight.name];
  found.sums.resize(static_cast<size_t>(in.c));
  found.rows += in.pixels();
  const auto add = [&](int64_t i, float value) {
    found.sums[static_cast<size_t>(i)] += double{value} * double{value};
  };
  for (int64_t pixel = 0; pixel < in.pixels(); ++pixel) {
    const int64_t n = pixel / (in.h * in.w), y = pixel / in.w % in.h, x = pixel % in.w;
    for (int64_t i = 0; i < in.c; ++i) {
      add(i,
          in.dtype == DType::bf16 ? to_float(in.at<bf16>(n, y, x)[i]) : in.at<float>(n, y, x)[i]);
    }
  }
}

const char* name_of(const Graph& graph, const Node& node, const WeightStore& weights, DType dtype,
                    const KernelContext& kernels) {
  if (node.op != &op_linear || dtype != DType::bf16 || kernels.device) return node.op->name;
  const Type type = weights.tensor(graph.value(node.inputs[1]).name).type;
  const int bits = integer_bits(type, kernels.isa, allows_int8_activations(node.attrs));
  return bits == 8 ? "linear int8" : bits == 16 ? "linear int16" : node.op->name;
}

}  // namespace

Executable::Executable(Plan plan, WeightStore& weights, DType dtype, const KernelContext& kernels)
    : plan_(std::move(plan)), constants_(plan_.views.size()) {
  const Graph& graph = plan_.graph;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    const Lowering lowering(graph, node, plan_.views, dtype, plan_.workspaces[i], &weights,
                            kernels);
    steps_.push_back(node.op->lower ? node.op->lower(lowering) : Step{});
    names_.push_back(name_of(graph, node, weights, dtype, kernels));
    streamed_.push_back(streamed_among(lowering.matrices()));
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const Op::Input& wanted = node.op->inputs[std::min(k, node.op->inputs.size() - 1)];
      if (node.inputs[k] == kAbsent || wanted.kind != Op::Input::value) continue;
      const Value& value = graph.value(node.inputs[k]);
      if (value.kind != Value::Kind::weight) continue;
      const auto id = static_cast<size_t>(node.inputs[k]);
      constants_[id] = constant_view(value, plan_.views[id], weights, kernels.device);
    }
  }
}

std::vector<View> Executable::views_in(std::byte* arena, std::byte* kept) const {
  std::vector<View> views = plan_.views;
  for (size_t i = 0; i < views.size(); ++i) {
    if (constants_[i].data) {
      views[i] = constants_[i];
    } else if (plan_.offsets[i] >= 0) {
      views[i].data = (plan_.kept[i] ? kept : arena) + plan_.offsets[i];
    }
  }
  return views;
}

void Executable::run_step(size_t node, const Run& run) const {
  if (!steps_[node]) return;
  const View& out = run.views[plan_.graph.nodes[node].output];
  if (out.halo) zero_halo(out);
  steps_[node](run);
}

StepTime Executable::timed(size_t index, double seconds) const {
  const Node& node = plan_.graph.nodes[index];
  std::vector<TensorType> in;
  for (const ValueId input : node.inputs) {
    in.push_back(input == kAbsent ? TensorType{} : plan_.types[static_cast<size_t>(input)]);
  }
  const TensorType& type = plan_.types[static_cast<size_t>(node.output)];
  return {label_of(plan_.graph, node), names_[index], seconds,
          node.op->flops ? node.op->flops(node, in, type) : 0.0};
}

void Executable::run_steady(const Session& session, const InputArrays& inputs,
                            const KernelContext& kernels, const Observer& observer) const {
  take_in(session, inputs, true, kernels);
  run_nodes(0, plan_.steady_nodes, session, kernels, observer);
}

void Executable::run(const Session& session, const InputArrays& inputs, const OutputArrays& outputs,
                     const KernelContext& kernels, const Observer& observer) const {
  take_in(session, inputs, false, kernels);
  run_nodes(plan_.steady_nodes, plan_.graph.nodes.size(), session, kernels, observer);
  for (const auto& [name, id] : plan_.graph.outputs) {
    const View& from = session.views[static_cast<size_t>(id)];
    unary({from, dense_like(from, DType::f32, outputs.at(name).data), Activation::none}, kernels);
  }
}

void Executable::take_in(const Session& session, const InputArrays& inputs, bool steady,
                         const KernelContext& kernels) const {
  for (size_t id = 0; id < plan_.graph.values.size(); ++id) {
    const Value& value = plan_.graph.values[id];
    const View& to = session.views[id];
    if (value.kind != Value::Kind::input || value.steady != steady || !to.data) continue;
    void* from = const_cast<void*>(inputs.at(value.name).data);
    if (to.dtype == DType::i32) {
      std::memcpy(to.data, from, static_cast<size_t>(to.pixels() * to.c * dtype_size(to.dtype)));
    } else {
      unary({dense_like(to, DType::f32, from), to, Activation::none}, kernels);
    }
  }
}

void Executable::run_nodes(size_t from, size_t to, const Session& session,
                           const KernelContext& kernels, const Observer& observer) const {
  const Graph& graph = plan_.graph;
  const Run run{session.views.data(), session.arena.data(), kernels};
  for (size_t i = from; i < to; ++i) {
    if (!steps_[i]) continue;
    if (observer.before_step) observer.before_step();
    const auto start = std::chrono::steady_clock::now();
    if (observer.squares) add_squares(graph, graph.nodes[i], session.views, *observer.squares);
    run_step(i, run);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (observer.times) observer.times->push_back(timed(i, time.count()));
  }
}

}  // namespace sdcore
