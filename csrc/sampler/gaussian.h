// Drawing what an encoder says in means and logarithms of variances.
#pragma once

#include <cstdint>

namespace sdcore {

// out = mean + exp(log_variance / 2) * noise, with the logarithm within [-30, 20], as diffusers'
// DiagonalGaussianDistribution has it. `out` may be any of the inputs. Every machine gives the same
// bits.
void draw_gaussian(const float* mean, const float* log_variance, const float* noise, int64_t n,
                   float* out);

}  // namespace sdcore
