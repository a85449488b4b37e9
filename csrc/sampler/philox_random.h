// Normal random numbers that are those of torch.randn on a CUDA device in float32, so that a seed
// gives the picture that users of A1111's web UI know. A device evaluates its logarithm and sine
// with a few roundings more, so the numbers agree to about 1e-6, and every machine gives the same.
#pragma once

#include <array>
#include <cstdint>

namespace sdcore {

using PhiloxBlock = std::array<uint32_t, 4>;

// Philox4x32-10: a block of random bits from a counter and a key (Salmon et al. 2011, "Parallel
// Random Numbers: As Easy as 1, 2, 3").
PhiloxBlock philox4x32(PhiloxBlock counter, std::array<uint32_t, 2> key);

// One torch.Generator("cuda"). Not safe to share between threads.
class PhiloxRandom {
 public:
  explicit PhiloxRandom(uint64_t seed) : seed_(seed) {}

  // The next torch.randn(count), as a device with at least `count` threads in flight gives it:
  // every element is the first number of a stream of its own. (Smaller devices give the rest of
  // large tensors other numbers of those streams.)
  void normal(float* out, int64_t count);

 private:
  uint64_t seed_;
  uint64_t drawn_ = 0;  // calls so far
};

}  // namespace sdcore
