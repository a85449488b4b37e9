// Four tiles of sums over two and two of zeros: the most that eight tile registers keep busy.
#include "kernels/roofline/kernel.h"
#include "simd/amx.h"

namespace sdcore::roofline {
namespace {

template <class Body>
void with_tiles(int64_t rounds, Body body) {
  static constexpr simd::TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < rounds; ++i) body();
  _tile_release();
}

void multiply_bf16(int64_t rounds) {
  with_tiles(rounds, [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  });
}

void multiply_int8(int64_t rounds) {
  with_tiles(rounds, [] {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  });
}

constexpr double kTileMadds = 16 * 16 * 16;  // of 32-bit lanes

}  // namespace

const Kernel kernel_amx_bf16 = {"amx bf16", Isa::amx, 4 * kTileMadds * 2 * 2, multiply_bf16};
const Kernel kernel_amx_int8 = {"amx int8", Isa::amx, 4 * kTileMadds * 4 * 2, multiply_int8};

}  // namespace sdcore::roofline
