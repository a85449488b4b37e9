// Lanczos' filter for pictures, as Pillow evaluates it.
#pragma once

#include <cstdint>
#include <vector>

namespace sdcore {

// What one pixel is made of: those of the other size from `first` on, by their shares.
struct Shares {
  int64_t first = 0;
  std::vector<double> shares;
};

// For each of `to` pixels in a line that had `from`.
std::vector<Shares> lanczos_shares(int64_t from, int64_t to);

}  // namespace sdcore
