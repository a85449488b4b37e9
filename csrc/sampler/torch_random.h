// Normal random numbers that are bit for bit those of torch.randn on the CPU in float32, so that a
// seed gives the picture that users of other tools know. Every machine gives the same bits.
#pragma once

#include <cstdint>
#include <optional>
#include <random>

namespace sdcore {

// One torch.Generator("cpu"). Not safe to share between threads.
class TorchRandom {
 public:
  // As torch's manual_seed; torch too uses only the low 32 bits.
  explicit TorchRandom(uint64_t seed);

  // The next torch.randn(count). Sixteen or more numbers at a time follow another formula than
  // fewer, so drawing in two parts is not drawing the whole.
  void normal(float* out, int64_t count);

 private:
  float uniform_float();
  double uniform_double();
  double normal_double();

  std::mt19937 engine_;
  std::optional<double> spare_;  // the second of a pair, where the first alone was asked for
};

}  // namespace sdcore
