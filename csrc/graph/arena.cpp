#include "graph/arena.h"

#include <algorithm>
#include <numeric>

#include "base/buffer.h"

namespace sdcore {
namespace {

int64_t lowest_gap(const std::vector<std::pair<int64_t, int64_t>>& taken, int64_t bytes) {
  int64_t offset = 0;
  for (const auto& [begin, end] : taken) {
    if (begin - offset >= bytes) break;
    offset = std::max(offset, end);
  }
  return offset;
}

}  // namespace

ArenaLayout lay_out(const std::vector<Interval>& intervals) {
  std::vector<size_t> order(intervals.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return intervals[a].bytes > intervals[b].bytes; });
  ArenaLayout layout{std::vector<int64_t>(intervals.size()), 0};
  std::vector<size_t> placed;
  for (const size_t i : order) {
    const auto bytes = static_cast<int64_t>(align_up(static_cast<size_t>(intervals[i].bytes)));
    if (bytes == 0) continue;
    std::vector<std::pair<int64_t, int64_t>> taken;
    for (const size_t other : placed) {
      if (intervals[other].first > intervals[i].last ||
          intervals[i].first > intervals[other].last) {
        continue;
      }
      const int64_t begin = layout.offsets[other];
      taken.emplace_back(begin, begin + static_cast<int64_t>(
                                            align_up(static_cast<size_t>(intervals[other].bytes))));
    }
    std::sort(taken.begin(), taken.end());
    layout.offsets[i] = lowest_gap(taken, bytes);
    layout.bytes = std::max(layout.bytes, layout.offsets[i] + bytes);
    placed.push_back(i);
  }
  return layout;
}

}  // namespace sdcore
