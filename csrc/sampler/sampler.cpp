#include "sampler/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace sdcore {
namespace {

// sum += weight * value. A weight of zero leaves the sum alone even where the value is not finite.
void accumulate(float weight, const float* value, int64_t n, float* sum) {
  if (weight == 0.0f) return;
  for (int64_t i = 0; i < n; ++i) sum[i] += weight * value[i];
}

void predict_x0(const StepRow& row, const float* x, const float* m, int64_t n, float* x0) {
  const float a = row.x0_from_x, b = row.x0_from_m;
  const float c = row.quantile > 0 ? std::numeric_limits<float>::infinity() : row.clip;
  for (int64_t i = 0; i < n; ++i) x0[i] = std::clamp(a * x[i] + b * m[i], -c, c);
}

// The quantile of |x0|, between two of its values where it falls between them.
float quantile_of(const float* x0, int64_t n, double quantile, std::vector<float>& sizes) {
  sizes.resize(static_cast<size_t>(n));
  // What is not a number has no place in an order.
  std::transform(x0, x0 + n, sizes.begin(), [](float v) { return v == v ? std::abs(v) : 0.0f; });
  const double place = quantile * static_cast<double>(n - 1);
  const auto low = sizes.begin() + static_cast<std::ptrdiff_t>(place);
  std::nth_element(sizes.begin(), low, sizes.end());
  if (low + 1 == sizes.end()) return *low;
  const float above = *std::min_element(low + 1, sizes.end());
  return static_cast<float>(std::lerp(*low, above, place - std::floor(place)));
}

void threshold(const StepRow& row, float* x0, int64_t n, std::vector<float>& sizes) {
  const float s = std::min(std::max(quantile_of(x0, n, row.quantile, sizes), 1.0f), row.clip);
  for (int64_t i = 0; i < n; ++i) x0[i] = std::clamp(x0[i], -s, s) / s;
}

}  // namespace

void guide(const float* uncond, const float* cond, float scale, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = uncond[i] + scale * (cond[i] - uncond[i]);
}

Sampler::Sampler(StepTable table) : table_(std::move(table)) {
  check(table_);
  for (const StepRow& row : table_.rows) {
    depth_ = std::max(depth_, static_cast<int64_t>(row.terms.size()) - 1);
  }
  past_.resize(static_cast<size_t>(depth_));
}

void Sampler::begin(int64_t index, int64_t n) {
  const int64_t rows = static_cast<int64_t>(table_.rows.size());
  require(index >= 0 && index < rows, ErrorKind::invalid_argument, "[sampler] there is no row ",
          index, " in a table of ", rows);
  if (index != next_ || static_cast<int64_t>(x0_.size()) != n) done_ = 0;
  const int64_t back =
      static_cast<int64_t>(table_.rows[static_cast<size_t>(index)].terms.size()) - 1;
  require(back <= done_, ErrorKind::invalid_argument, "[sampler] row ", index, " looks ", back,
          " steps back, but ", done_, " came before it; build the table from the step to begin at");
  x0_.resize(static_cast<size_t>(n));
}

void Sampler::remember(const float* x, const float* model_output, const float* noise, int64_t n) {
  if (depth_ == 0) return;
  Past& slot = past_[static_cast<size_t>(done_ % depth_)];
  slot.x.assign(x, x + n);
  slot.x0 = x0_;
  slot.model.assign(model_output, model_output + n);
  if (noise != nullptr) slot.noise.assign(noise, noise + n);
}

void Sampler::step(int64_t index, const float* x, const float* model_output, const float* noise,
                   int64_t n, int64_t images, float* out) {
  begin(index, n);
  const StepRow& row = table_.rows[static_cast<size_t>(index)];
  require(!row.draws || noise != nullptr, ErrorKind::invalid_argument, "[sampler] row ", index,
          " adds noise, and none was given");
  predict_x0(row, x, model_output, n, x0_.data());
  if (row.quantile > 0) {
    for (int64_t i = 0; i < images; ++i) {
      threshold(row, x0_.data() + i * (n / images), n / images, sum_);
    }
  }

  sum_.assign(static_cast<size_t>(n), 0.0f);
  accumulate(row.terms[0].x, x, n, sum_.data());
  accumulate(row.terms[0].x0, x0_.data(), n, sum_.data());
  accumulate(row.terms[0].m, model_output, n, sum_.data());
  for (size_t age = 1; age < row.terms.size(); ++age) {
    const Past& past = past_[static_cast<size_t>((done_ - static_cast<int64_t>(age)) % depth_)];
    accumulate(row.terms[age].x, past.x.data(), n, sum_.data());
    accumulate(row.terms[age].x0, past.x0.data(), n, sum_.data());
    accumulate(row.terms[age].m, past.model.data(), n, sum_.data());
    accumulate(row.terms[age].z, past.noise.data(), n, sum_.data());
  }
  accumulate(row.noise, noise, n, sum_.data());

  remember(x, model_output, row.draws ? noise : nullptr,
           n);  // before `out`, which may be `x`, is written
  std::copy(sum_.begin(), sum_.end(), out);
  ++done_;
  next_ = index + 1;
}

}  // namespace sdcore
