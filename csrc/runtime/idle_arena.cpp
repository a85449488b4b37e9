#include "runtime/idle_arena.h"

#include <utility>

namespace sdcore {

std::shared_ptr<IdleArena> IdleArena::shared() {
  static std::mutex mutex;
  static std::weak_ptr<IdleArena> living;
  const std::lock_guard lock(mutex);
  auto arena = living.lock();
  if (!arena) living = arena = std::make_shared<IdleArena>();
  return arena;
}

Buffer IdleArena::take(size_t bytes) {
  Buffer idle;
  {
    const std::lock_guard lock(mutex_);
    idle = std::exchange(idle_, Buffer());
  }
  if (idle.size() >= bytes) return idle;
  idle = Buffer();
  return Buffer(bytes);
}

void IdleArena::give(Buffer arena) {
  const std::lock_guard lock(mutex_);
  if (arena.size() > idle_.size()) std::swap(arena, idle_);
}

void IdleArena::drop() {
  const std::lock_guard lock(mutex_);
  idle_ = Buffer();
}

}  // namespace sdcore
