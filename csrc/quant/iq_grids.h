// What the IQ formats are made of: grids of points with 8 or 4 coordinates, of which a block names
// one for every 8 or 4 numbers.
#pragma once

#include "quant/format.h"

namespace sdcore::quant {

#include "quant/iq_grids.inc"

template <int coordinates, size_t points>
using Grid = std::array<std::array<int8_t, coordinates>, points>;

// A packed point holds, from its lowest bits up, an index into `values` for each coordinate.
template <int coordinates, size_t points, size_t count>
consteval Grid<coordinates, points> unpack_grid(const uint16_t (&packed)[points],
                                                const int8_t (&values)[count]) {
  constexpr int bits = 16 / coordinates;
  Grid<coordinates, points> grid{};
  for (size_t p = 0; p < points; ++p) {
    for (int i = 0; i < coordinates; ++i) {
      grid[p][static_cast<size_t>(i)] = values[(packed[p] >> (bits * i)) & ((1 << bits) - 1)];
    }
  }
  return grid;
}

inline constexpr int8_t kIq1Values[] = {-1, 0, 1};
inline constexpr int8_t kIq2Values[] = {8, 25, 43};
inline constexpr int8_t kIq3XxsValues[] = {4, 12, 20, 28, 36, 44, 52, 62};
inline constexpr int8_t kIq3SValues[] = {1, 3, 5, 7, 9, 11, 13, 15};

inline constexpr auto kIq1SGrid = unpack_grid<8>(kPackedIq1S, kIq1Values);
inline constexpr auto kIq2XxsGrid = unpack_grid<8>(kPackedIq2Xxs, kIq2Values);
inline constexpr auto kIq2XsGrid = unpack_grid<8>(kPackedIq2Xs, kIq2Values);
inline constexpr auto kIq2SGrid = unpack_grid<8>(kPackedIq2S, kIq2Values);
inline constexpr auto kIq3XxsGrid = unpack_grid<4>(kPackedIq3Xxs, kIq3XxsValues);
inline constexpr auto kIq3SGrid = unpack_grid<4>(kPackedIq3S, kIq3SValues);

// How far the points of iq1_s and iq1_m are moved, up or down.
inline constexpr float kIq1Shift = 0.125f;

// out = step * point, negative where bit i of `signs` is set.
template <size_t count>
[[gnu::always_inline]] inline void put_point(const std::array<int8_t, count>& point, int signs,
                                             float step, float* __restrict out) {
  for (size_t i = 0; i < count; ++i) {
    const int sign = 1 - ((signs >> i) & 1) * 2;
    out[i] = step * static_cast<float>(point[i] * sign);
  }
}

// The signs of 8 numbers in 7 bits: an even number of them is negative.
[[gnu::always_inline]] inline int even_signs(uint32_t seven) {
  return static_cast<int>(seven | (static_cast<uint32_t>(std::popcount(seven) & 1) << 7));
}

}  // namespace sdcore::quant
