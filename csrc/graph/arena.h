// Places intervals of use in one block of memory.
#pragma once

#include <cstdint>
#include <vector>

namespace sdcore {

struct Interval {
  int first = 0, last = 0;  // steps during which the bytes are in use, both included
  int64_t bytes = 0;
};

struct ArenaLayout {
  std::vector<int64_t> offsets;  // by interval, aligned
  int64_t bytes = 0;
};

// Largest first, each at the lowest offset where it meets none that is alive at the same time.
ArenaLayout lay_out(const std::vector<Interval>& intervals);

}  // namespace sdcore
