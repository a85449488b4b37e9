// A scheduler as data: one row for each evaluation of the model. Every sampler in use is, per row,
// a linear combination of what is known, so this is the whole of a scheduler at run time.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace sdcore {

// Weights of what step i - age knew: its x, its clean image x0 (clipped), the model's output m, and
// the noise z that it drew.
struct StepTerm {
  float x = 0, x0 = 0, m = 0, z = 0;
};

// With m = the model's output at (input_scale * x, timestep):
//   x0 = x0_from_x * x + x0_from_m * m, clipped to [-clip, clip]
//   x' = sum over ages of (terms[age].x * x + terms[age].x0 * x0 + terms[age].m * m
//                          + terms[age].z * z) + noise * z
// With a quantile, the clipping is Imagen's dynamic thresholding (Saharia et al. 2022): each image
// is clipped to that quantile of its |x0|, at least 1 and at most `clip`, and divided by it.
// A method that evaluates the model twice a step has two rows a step: the second row's terms of age
// 1 reach back to where the step began. The weight on m is there because some schedulers clip x0
// and yet step along the unclipped direction, and for those that combine past outputs directly.
struct StepRow {
  float timestep = 0;
  float input_scale = 1;
  float x0_from_x = 0, x0_from_m = 0;
  float clip = std::numeric_limits<float>::infinity();
  float quantile = 0;           // 0: plain clipping
  std::vector<StepTerm> terms;  // the first has no z: that is `noise`
  float noise = 0;
  bool draws = false;  // whether z is drawn; it may be for the sake of order alone
};

struct StepTable {
  std::vector<StepRow> rows;
  float init_noise_sigma = 1;  // the first x is this times normal noise
};

// Throws Error(invalid_argument) naming the row when a number is not finite, a row has no terms,
// or noise is weighed that was not drawn.
void check(const StepTable& table);

}  // namespace sdcore
