// Sizes of a tensor, outermost first, as NumPy and PyTorch write them.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace sdcore {

using Shape = std::vector<int64_t>;

inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i) text += ", ";
    text += std::to_string(shape[i]);
  }
  text += "]";
  return text;
}

// Number of elements; -1 when a size is negative or the product does not fit.
inline int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0) return -1;
    if (size != 0 && count > std::numeric_limits<int64_t>::max() / size) return -1;
    count *= size;
  }
  return count;
}

}  // namespace sdcore
