// The memory of the last run that ended, for the next run of any network: drawing a picture takes
// as much as its hungriest network and not the sum of all, and finds that memory warm.
#pragma once

#include <memory>

#include "base/buffer.h"
#include "base/guarded.h"

namespace sdcore {

class IdleArena {
 public:
  // One for the whole process, as long as anything holds it.
  static std::shared_ptr<IdleArena> shared();

  // At least this many bytes; what lies idle and is too small is freed first.
  Buffer take(size_t bytes);
  void give(Buffer arena);
  // Frees what lies idle.
  void drop();

 private:
  Guarded<Buffer> idle_;
};

}  // namespace sdcore
