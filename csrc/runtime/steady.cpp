#include "runtime/steady.h"

#include <algorithm>
#include <utility>

namespace sdcore {

Steady::Steady(Inputs inputs) : inputs_(std::move(inputs)) {
  for (const auto& [name, input] : inputs_) {
    shapes_[name] = input.shape;
    names_.insert(name);
    arrays_[name] = input.values.data();
  }
}

const Steady::Kept& Steady::kept(const std::shared_ptr<const Executable>& executable,
                                 const std::function<void(Kept&)>& make) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::ranges::find_if(kept_, [&](const Kept& kept) { return kept.of.lock() == executable; });
  if (found != kept_.end()) return *found;
  Kept made{executable, {}, nullptr};
  make(made);
  kept_.remove_if([](const Kept& kept) { return kept.of.expired(); });
  return kept_.emplace_back(std::move(made));
}

}  // namespace sdcore
