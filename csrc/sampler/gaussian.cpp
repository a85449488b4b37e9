#include "sampler/gaussian.h"

#include <algorithm>
#include <cmath>

namespace sdcore {

void draw_gaussian(const float* mean, const float* log_variance, const float* noise, int64_t n,
                   float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float logarithm = std::clamp(log_variance[i], -30.0f, 20.0f);
    // Libraries differ in their exponentials of floats; rounded from doubles they agree.
    const auto spread = static_cast<float>(std::exp(static_cast<double>(logarithm) / 2));
    out[i] = mean[i] + spread * noise[i];
  }
}

}  // namespace sdcore
