#include "sampler/step_table.h"

#include <cmath>

#include "base/error.h"

namespace sdcore {
namespace {

bool finite(const StepRow& row) {
  bool all = std::isfinite(row.timestep) && std::isfinite(row.input_scale) &&
             std::isfinite(row.x0_from_x) && std::isfinite(row.x0_from_m) &&
             std::isfinite(row.noise) && !std::isnan(row.clip) && std::isfinite(row.quantile);
  for (const StepTerm& term : row.terms) {
    all = all && std::isfinite(term.x) && std::isfinite(term.x0) && std::isfinite(term.m) &&
          std::isfinite(term.z);
  }
  return all;
}

// Whether the noise that a row weighs was drawn, by it or by rows before it.
bool has_its_noise(const StepTable& table, size_t i) {
  const StepRow& row = table.rows[i];
  bool all = row.terms[0].z == 0 && (row.noise == 0 || row.draws);
  for (size_t age = 1; age < row.terms.size(); ++age) {
    all = all && (row.terms[age].z == 0 || (age <= i && table.rows[i - age].draws));
  }
  return all;
}

}  // namespace

void check(const StepTable& table) {
  require(!table.rows.empty(), ErrorKind::invalid_argument, "[sampler] the step table has no rows");
  require(std::isfinite(table.init_noise_sigma), ErrorKind::invalid_argument,
          "[sampler] init_noise_sigma must be finite, got ", table.init_noise_sigma);
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const StepRow& row = table.rows[i];
    require(!row.terms.empty(), ErrorKind::invalid_argument, "[sampler] row ", i, " has no terms");
    require(finite(row), ErrorKind::invalid_argument, "[sampler] row ", i, " (timestep ",
            row.timestep, ") has a coefficient that is not a finite number");
    require(row.clip > 0, ErrorKind::invalid_argument, "[sampler] row ", i,
            ": clip must be positive, got ", row.clip);
    require(row.quantile >= 0 && row.quantile <= 1, ErrorKind::invalid_argument, "[sampler] row ",
            i, ": the quantile must lie in [0, 1], got ", row.quantile);
    require(has_its_noise(table, i), ErrorKind::invalid_argument, "[sampler] row ", i,
            " weighs noise that no row draws");
  }
}

}  // namespace sdcore
