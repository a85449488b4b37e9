// Whether networks still give numbers: what is made of anything else is black, without a word.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace sdcore {

template <class... What>
void require_finite(const std::vector<float>& numbers, const What&... what) {
  const bool finite = std::ranges::all_of(numbers, [](float x) { return std::isfinite(x); });
  require(finite, ErrorKind::unsupported_model, "[generate] ", what...,
          " is not all finite numbers: weights are damaged, a scale is far too large, or they "
          "overflow in the type of activations, which dtype \"f32\" would mend");
}

}  // namespace sdcore
