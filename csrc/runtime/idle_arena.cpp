#include "runtime/idle_arena.h"

#include <utility>

namespace sdcore {

std::shared_ptr<IdleArena> IdleArena::shared() {
  static Guarded<std::weak_ptr<IdleArena>> only;
  const auto living = only.lock();
  auto arena = living->lock();
  if (!arena) *living = arena = std::make_shared<IdleArena>();
  return arena;
}

Buffer IdleArena::take(size_t bytes) {
  Buffer idle = std::exchange(*idle_.lock(), Buffer());
  if (idle.size() >= bytes) return idle;
  idle = Buffer();
  return Buffer(bytes);
}

void IdleArena::give(Buffer arena) {
  const auto idle = idle_.lock();
  if (arena.size() > idle->size()) std::swap(arena, *idle);
}

void IdleArena::drop() { *idle_.lock() = Buffer(); }

}  // namespace sdcore
