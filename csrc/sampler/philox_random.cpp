// Which counter makes which element follows PyTorch's ATen/native/cuda/DistributionTemplates.h; how
// bits become a normal number, cuRAND's curand_normal.h.
#include "sampler/philox_random.h"

#include <cmath>
#include <numbers>

namespace sdcore {
namespace {

constexpr int kRounds = 10;

uint32_t high(uint64_t bits) { return static_cast<uint32_t>(bits >> 32); }
uint32_t low(uint64_t bits) { return static_cast<uint32_t>(bits); }

// The first number of the pair that Box and Muller make of two uniform ones in (0, 1].
float box_muller(uint32_t a, uint32_t b) {
  constexpr float unit = 0x1p-32f;
  constexpr float turn = unit * static_cast<float>(2.0 * std::numbers::pi);
  const float u = static_cast<float>(a) * unit + unit / 2;
  const float v = static_cast<float>(b) * turn + turn / 2;
  return static_cast<float>(std::sqrt(-2.0 * std::log(double{u})) * std::sin(double{v}));
}

}  // namespace

PhiloxBlock philox4x32(PhiloxBlock c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t first = uint64_t{0xD2511F53u} * c[0];
    const uint64_t second = uint64_t{0xCD9E8D57u} * c[2];
    c = {high(second) ^ c[1] ^ key[0], low(second), high(first) ^ c[3] ^ key[1], low(first)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return c;
}

void PhiloxRandom::normal(float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t stream = static_cast<uint64_t>(i);
    const PhiloxBlock bits = philox4x32({low(drawn_), high(drawn_), low(stream), high(stream)},
                                        {low(seed_), high(seed_)});
    out[i] = box_muller(bits[0], bits[1]);
  }
  ++drawn_;
}

}  // namespace sdcore
