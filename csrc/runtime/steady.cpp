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
  const auto all = kept_.lock();
  const auto found =
      std::ranges::find_if(*all, [&](const Kept& kept) { return kept.of.lock() == executable; });
  if (found != all->end()) return *found;
  Kept made{executable, {}, nullptr};
  make(made);
  all->remove_if([](const Kept& kept) { return kept.of.expired(); });
  return all->emplace_back(std::move(made));
}

}  // namespace sdcore
