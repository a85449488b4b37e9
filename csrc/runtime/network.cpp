#include "runtime/network.h"

#include <algorithm>

#include "base/error.h"
#include "graph/op.h"
#include "graph/ops/linear.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/gemm/integers.h"
#include "runtime/weight_needs.h"

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
    if (node.op != &op_linear) return false;
    const auto type = types.find(graph.value(node.inputs[1]).name);
    return type != types.end() &&
           integer_bits(type->second, isa, allows_int8_activations(node.attrs)) > 0;
  };
  const bool bf16 = on_device || isa == Isa::amx || std::ranges::any_of(graph.nodes, in_integers);
  return bf16 ? DType::bf16 : DType::f32;
}

Network::Network(Graph graph, std::shared_ptr<WeightStore> weights, NetworkOptions options)
    : graph_(std::move(graph)), weights_(std::move(weights)), options_(std::move(options)) {
  require_dtype(options_.dtype, options_.device);
  for (const Value& value : graph_.values) {
    if (value.kind == Value::Kind::weight) (void)weights_->shaped(value.name, value.shape);
  }
}

Network::Entry Network::entry(const InputShapes& shapes, const Steady* steady) {
  const Sizes sizes = with_steady(shapes, steady);
  const auto entries = executables_.lock();
  for (auto entry = entries->begin(); entry != entries->end(); ++entry) {
    if (entry->sizes != sizes) continue;
    entries->splice(entries->begin(), *entries, entry);
    return *entry;
  }
  const Plan plan =
      make_plan(graph_, sizes.shapes, options_.dtype, options_.isa, options_.device, sizes.steady);
  // Weights go to a device in its stream, in which others may be running a network.
  std::unique_lock<std::mutex> turn;
  if (options_.device) turn = std::unique_lock(options_.device->mutex());
  entries->push_front(options_.device ? make_on_device(sizes, plan, *entries)
                                      : make_entry(sizes, plan, nullptr));
  if (entries->size() > kMaxExecutables) entries->pop_back();
  return entries->front();
}

Network::Sizes Network::with_steady(const InputShapes& shapes, const Steady* steady) const {
  Sizes sizes{shapes, {}};
  if (!steady) return sizes;
  sizes.steady = steady->names();
  for (const Value& value : graph_.values) {
    if (value.kind != Value::Kind::input || !sizes.steady.contains(value.name)) continue;
    require(value.dtype == DType::f32, ErrorKind::invalid_argument, "[network] input '", value.name,
            "' is of whole numbers, which are never steady");
  }
  for (const auto& [name, shape] : steady->shapes()) {
    require(sizes.shapes.emplace(name, shape).second, ErrorKind::invalid_argument,
            "[network] input '", name, "' is given, and among the steady inputs too");
  }
  return sizes;
}

Network::Entry Network::make_entry(const Sizes& sizes, const Plan& plan,
                                   gpu::WeightBudget* budget) {
  KernelContext context = kernels();
  context.budget = budget;
  Entry made{sizes, nullptr, nullptr};
  made.executable = std::make_shared<const Executable>(plan, *weights_, options_.dtype, context);
  if (options_.device) made.on_device = std::make_shared<DeviceRun>(made.executable, kernels());
  return made;
}

Network::Entry Network::make_on_device(const Sizes& sizes, const Plan& plan, Entries& others) {
  gpu::Device& device = *options_.device;
  if (auto made = make_without_streaming(sizes, plan)) return *made;
  if (options_.streaming == Streaming::always) {
    gpu::WeightBudget none(0, 1);
    return make_entry(sizes, plan, &none);
  }
  // Weights of this network that are there already are dealt anew with the others.
  others.clear();
  weights_->release();
  device.release_arena();
  const WeightNeeds needs = weight_needs(plan, *weights_, options_.dtype, kernels());
  const size_t taken = run_bytes(plan) + needs.others + WeightRing::bytes_for(needs.largest);
  const size_t room = room_on(device);
  gpu::WeightBudget budget(room - std::min(room, taken), needs.matrices);
  return make_entry(sizes, plan, &budget);
}

std::optional<Network::Entry> Network::make_without_streaming(const Sizes& sizes,
                                                              const Plan& plan) {
  if (options_.streaming == Streaming::never) return make_entry(sizes, plan, nullptr);
  if (options_.streaming == Streaming::always) return std::nullopt;
  const gpu::Device& device = *options_.device;
  const WeightNeeds needs = weight_needs(plan, *weights_, options_.dtype, kernels());
  // The old arena makes room for a larger one; and the others go up with the first matrices.
  const size_t arena = run_bytes(plan), growth = arena - std::min(arena, device.arena_bytes());
  const size_t weights = needs.matrices ? needs.matrices + needs.others : 0;
  if (weights + growth > room_on(device)) return std::nullopt;
  try {
    return make_entry(sizes, plan, nullptr);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::out_of_memory) throw;
    return std::nullopt;  // somebody else was faster, or the margin is too small
  }
}

size_t Network::streamed_bytes() {
  const auto entries = executables_.lock();
  const bool none = entries->empty() || !entries->front().on_device;
  return none ? 0 : entries->front().on_device->streamed_bytes();
}

void Network::release() {
  executables_.lock()->clear();
  weights_->release();
  if (options_.device) {
    const std::lock_guard turn(options_.device->mutex());
    options_.device->release_arena();
  }
}

void Network::run(const InputShapes& shapes, const InputArrays& inputs, const OutputArrays& outputs,
                  const Observer& observer, Steady* steady) {
  const auto [sizes, made, on_device] = entry(shapes, steady);
  if (on_device) return on_device->run(inputs, outputs, observer, steady);
  Session session{idle_->take(made->arena_bytes()), {}};
  const auto enter = [&](std::byte* kept) {
    session.views = made->views_in(session.arena.data(), kept);
  };
  const auto make = [&](Steady::Kept& kept) {
    kept.here = Buffer(made->kept_bytes());
    enter(kept.here.data());
    made->run_steady(session, steady->arrays(), kernels(), observer);
  };
  enter(steady ? steady->kept(made, make).here.data() : nullptr);
  made->run(session, inputs, outputs, kernels(), observer);
  idle_->give(std::move(session.arena));
}

}  // namespace sdcore
