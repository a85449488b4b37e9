#include "pipeline/lanczos.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sdcore {
namespace {

constexpr double kSupport = 3.0;  // of the filter, in pixels

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) {
  return x >= -kSupport && x < kSupport ? sinc(x) * sinc(x / kSupport) : 0.0;
}

}  // namespace

std::vector<Shares> lanczos_shares(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double widening = std::max(scale, 1.0), support = kSupport * widening;
  const double shrinking = 1.0 / widening;
  std::vector<Shares> all(static_cast<size_t>(to));
  for (int64_t i = 0; i < to; ++i) {
    auto& [first, shares] = all[static_cast<size_t>(i)];
    const double center = (static_cast<double>(i) + 0.5) * scale;
    first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t last = std::min(static_cast<int64_t>(center + support + 0.5), from);
    double sum = 0.0;
    for (int64_t x = first; x < last; ++x) {
      shares.push_back(lanczos((static_cast<double>(x) - center + 0.5) * shrinking));
      sum += shares.back();
    }
    for (double& share : shares) {
      if (sum != 0.0) share /= sum;
    }
  }
  return all;
}

}  // namespace sdcore
