// What the kernels for AMX share. Included only from files of that instruction set.
#pragma once

#include <cstdint>

#include "simd/avx512.h"

namespace sdcore::simd {

// Eight tiles of rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// GCC's tile instructions do not say what memory they read and write; this orders others with them.
SDCORE_SIMD void fence(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// Products of tiles that follow each other closely wait long for a unit that the core's other
// thread uses too. A few instructions between them cost nothing where it is idle, as a product
// takes 16 cycles, and a third of the time is saved where it is not (docs/performance.md).
SDCORE_SIMD void space_products() {
  asm volatile("nop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop");
}

}  // namespace sdcore::simd
