#include "runtime/network.h"

#include "base/error.h"

namespace sdcore {
namespace {

// Sizes in use at one time: a program that walks through many sizes does not grow without end.
constexpr size_t kMaxExecutables = 8;

}  // namespace

Network::Network(Graph graph, std::shared_ptr<WeightStore> weights, NetworkOptions options)
    : graph_(std::move(graph)), weights_(std::move(weights)), options_(std::move(options)) {
  for (const Value& value : graph_.values) {
    if (value.kind == Value::Kind::weight) (void)weights_->shaped(value.name, value.shape);
  }
}

std::shared_ptr<const Executable> Network::executable(const InputShapes& shapes) {
  const std::lock_guard lock(mutex_);
  for (auto entry = executables_.begin(); entry != executables_.end(); ++entry) {
    if (entry->shapes != shapes) continue;
    executables_.splice(executables_.begin(), executables_, entry);
    return entry->executable;
  }
  Plan plan = make_plan(graph_, shapes, options_.dtype, options_.isa);
  const KernelContext kernels{*options_.pool, options_.isa};
  auto made =
      std::make_shared<const Executable>(std::move(plan), *weights_, options_.dtype, kernels);
  executables_.push_front({shapes, made});
  if (executables_.size() > kMaxExecutables) executables_.pop_back();
  return made;
}

void Network::release() {
  {
    const std::lock_guard lock(mutex_);
    executables_.clear();
  }
  weights_->release();
}

void Network::run(const InputShapes& shapes, const InputArrays& inputs, const OutputArrays& outputs,
                  const Observer& observer) {
  const auto made = executable(shapes);
  Session session = made->session(idle_->take(made->arena_bytes()));
  made->run(session, inputs, outputs, {*options_.pool, options_.isa}, observer);
  idle_->give(std::move(session.arena));
}

}  // namespace sdcore
