// A picture as networks take and give it.
#pragma once

#include <cstdint>
#include <vector>

namespace sdcore {

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<float> pixels;  // [height, width, 3]
};

}  // namespace sdcore
