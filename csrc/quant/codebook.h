// How the IQ formats are made: for a super-block of 256 numbers, the points of a grid, their signs
// and the scales that leave the least squared error.
#pragma once

#include <cstdint>
#include <vector>

namespace sdcore::quant {

struct CodebookShape {
  const int8_t* points;  // [count][coordinates]
  int count, coordinates;
  int group;          // numbers that share a scale: 16 or 32
  int most;           // the largest level of a scale
  float unit_factor;  // what is stored of the unit is this times it, as f16
  enum class Signs { none, free, even } signs = Signs::free;
  float shift = 0.0f;           // not 0: every point comes moved up, and again moved down
  bool shift_per_group = true;  // the points of a group all move alike
};

// x ~ unit * (2 * level + 1) * sign * point
struct CodebookBlock {
  uint16_t unit;        // f16 bits, of unit_factor * unit
  uint8_t levels[16];   // one a group
  uint16_t points[64];  // one for each 8 or 4 numbers; `count` and more: moved down
  uint8_t signs[32];    // a bit a number
};

class Codebook {
 public:
  explicit Codebook(const CodebookShape& shape);
  // `importance` weighs the squared errors of the 256 numbers; null: they all weigh the same.
  CodebookBlock fit(const float* values, const float* importance) const;

 private:
  struct Search;
  int slots() const { return static_cast<int>(points_.size()); }
  const float* coordinate(int c) const { return coordinates_.data() + c * slots(); }

  CodebookShape shape_;
  std::vector<uint16_t> points_;              // by slot
  std::vector<float> coordinates_;            // [coordinates][slots]
  std::vector<float> norms_;                  // the squared norms that occur
  std::vector<int> begins_;                   // the first slot of each norm, and the end
  int up_slots_ = 0, up_norms_ = 0;           // of points that are not moved down
  float largest_ = 0.0f, smallest_ = 256.0f;  // of the coordinates, signs apart
};

}  // namespace sdcore::quant
