#include "runtime/network.h"

#include <algorithm>

#include "base/error.h"
#include "graph/op.h"
#include "graph/ops/linear.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/gemm/integers.h"

namespace sdcore {
namespace {

// Sizes in use at one time: a program that walks through many sizes does not grow without end.
constexpr size_t kMaxExecutables = 8;

}  // namespace

DType auto_dtype(const Graph& graph, const WeightTypes& types, Isa isa, bool on_device) {
  const auto in_integers = [&](const Node& node) {
    if (node.op == &op_conv2d && convolves_integers(isa)) {
      const Shape& weight = graph.value(node.inputs[1]).shape;
      return weight[2] == 3 && weight[3] == 3;
    }
    if (node.op != &op_linear || !allows_int8_activations(node.attrs)) return false;
    const auto type = types.find(graph.value(node.inputs[1]).name);
    return type != types.end() && integer_bits(type->second, isa, true) == 8;
  };
  const bool bf16 = on_device || isa == Isa::amx || std::ranges::any_of(graph.nodes, in_integers);
  return bf16 ? DType::bf16 : DType::f32;
}

Network::Network(Graph graph, std::shared_ptr<WeightStore> weights, NetworkOptions options)
    : graph_(std::move(graph)), weights_(std::move(weights)), options_(std::move(options)) {
  for (const Value& value : graph_.values) {
    if (value.kind == Value::Kind::weight) (void)weights_->shaped(value.name, value.shape);
  }
}

Network::Entry Network::entry(const InputShapes& shapes) {
  const std::lock_guard lock(mutex_);
  for (auto entry = executables_.begin(); entry != executables_.end(); ++entry) {
    if (entry->shapes != shapes) continue;
    executables_.splice(executables_.begin(), executables_, entry);
    return *entry;
  }
  Plan plan = make_plan(graph_, shapes, options_.dtype, options_.isa, options_.device);
  // Weights go to a device in its stream, in which others may be running a network.
  std::unique_lock<std::mutex> turn;
  if (options_.device) turn = std::unique_lock(options_.device->mutex());
  Entry made{shapes, nullptr, nullptr};
  made.executable =
      std::make_shared<const Executable>(std::move(plan), *weights_, options_.dtype, kernels());
  if (options_.device) made.on_device = std::make_shared<DeviceRun>(made.executable, kernels());
  executables_.push_front(made);
  if (executables_.size() > kMaxExecutables) executables_.pop_back();
  return made;
}

void Network::release() {
  {
    const std::lock_guard lock(mutex_);
    executables_.clear();
  }
  weights_->release();
  if (options_.device) {
    const std::lock_guard turn(options_.device->mutex());
    options_.device->release_arena();
  }
}

void Network::run(const InputShapes& shapes, const InputArrays& inputs, const OutputArrays& outputs,
                  const Observer& observer) {
  const auto [sizes, made, on_device] = entry(shapes);
  if (on_device) return on_device->run(inputs, outputs, observer);
  Session session = made->session(idle_->take(made->arena_bytes()));
  made->run(session, inputs, outputs, kernels(), observer);
  idle_->give(std::move(session.arena));
}

}  // namespace sdcore
