#include "pipeline/schedules.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "base/error.h"
#include "pipeline/metadata.h"

namespace sdcore {
namespace {

using metadata::get_array;
using metadata::get_number;
using metadata::get_size;

constexpr std::string_view kTable = "sdcore.table.";
constexpr std::string_view kRows = ".rows";
constexpr size_t kRowHead = 10;     // values before the terms
constexpr size_t kTerm = 4;         // values of a term
constexpr uint32_t kMaxTerms = 64;  // no method looks further back

void append(Schedule& schedule, StepRow row, NoiseLevel level) {
  schedule.table.rows.push_back(std::move(row));
  schedule.levels.push_back(level);
}

StepRow read_row(const float* values, size_t terms) {
  StepRow row;
  row.timestep = values[0];
  row.input_scale = values[1];
  row.x0_from_x = values[2];
  row.x0_from_m = values[3];
  row.clip = values[4];
  row.quantile = values[5];
  row.noise = values[6];
  row.draws = values[7] != 0;
  for (size_t i = 0; i < terms; ++i) {
    const float* term = values + kRowHead + kTerm * i;
    row.terms.push_back({term[0], term[1], term[2], term[3]});
  }
  // A row that says it looks back can only follow that many others.
  const auto is_zero = [](const StepTerm& t) {
    return t.x == 0 && t.x0 == 0 && t.m == 0 && t.z == 0;
  };
  while (row.terms.size() > 1 && is_zero(row.terms.back())) row.terms.pop_back();
  return row;
}

Schedule read_rows(const float* values, size_t count, size_t terms) {
  Schedule schedule;
  for (size_t i = 0; i < count; ++i, values += kRowHead + kTerm * terms) {
    append(schedule, read_row(values, terms), {values[8], values[9]});
  }
  return schedule;
}

// What cannot be run is the file's fault.
void check_schedule(const Schedule& schedule, const std::string& key) {
  try {
    check(schedule.table);
  } catch (const Error& error) {
    fail(ErrorKind::checkpoint, "[model] ", key, ": ", error.what());
  }
  for (const auto& [picture, noise] : schedule.levels) {
    require(std::isfinite(picture) && std::isfinite(noise), ErrorKind::checkpoint, "[model] ", key,
            " has a noise level that is not a finite number");
  }
}

std::vector<ScheduleStart> read_starts(const gguf::Metadata& metadata, const std::string& prefix,
                                       size_t rows, size_t terms) {
  const std::string key = prefix + ".starts";
  const auto& strengths = get_array<double>(metadata, prefix + ".strengths");
  const auto& starts = get_array<uint32_t>(metadata, key);
  const auto& values = get_array<float>(metadata, prefix + ".start_rows");
  require(starts.size() == 2 * strengths.size(), ErrorKind::checkpoint, "[model] ", key,
          " must hold ", 2 * strengths.size(), " numbers, two for each of ", prefix,
          ".strengths, got ", starts.size());
  const size_t width = kRowHead + kTerm * terms;
  std::vector<ScheduleStart> all;
  size_t used = 0;
  for (size_t i = 0; i < strengths.size(); ++i) {
    const size_t own = starts[2 * i], next = starts[2 * i + 1];
    require(own <= (values.size() - used) / width && next <= rows && own + rows > next,
            ErrorKind::checkpoint, "[model] ", key, " asks for rows that are not there: ", own,
            ", then those from ", next, " on");
    require(strengths[i] <= 1 && (i ? strengths[i] > strengths[i - 1] : strengths[i] >= 0),
            ErrorKind::checkpoint, "[model] ", prefix,
            ".strengths must rise and be from 0 to 1, got ", strengths[i]);
    all.push_back({strengths[i], read_rows(values.data() + used, own, terms), next});
    used += own * width;
  }
  require(used == values.size(), ErrorKind::checkpoint, "[model] ", prefix, ".start_rows holds ",
          values.size(), " numbers, and the starts have ", used);
  return all;
}

Schedules read_table(const gguf::Metadata& metadata, const std::string& prefix) {
  const auto terms = static_cast<size_t>(get_size(metadata, prefix + ".terms", kMaxTerms));
  const auto& values = get_array<float>(metadata, prefix + std::string(kRows));
  const size_t width = kRowHead + kTerm * terms;
  require(!values.empty() && values.size() % width == 0, ErrorKind::checkpoint, "[model] ", prefix,
          kRows, " must hold rows of ", width, " numbers, got ", values.size(), " numbers");
  Schedule whole = read_rows(values.data(), values.size() / width, terms);
  whole.table.init_noise_sigma = get_number(metadata, prefix + ".init_noise_sigma");
  check_schedule(whole, prefix);
  std::vector<ScheduleStart> starts = read_starts(metadata, prefix, whole.table.rows.size(), terms);
  Schedules schedules(std::move(whole), starts);
  for (const ScheduleStart& start : starts) {
    check_schedule(schedules.from_picture(start.strength), prefix + ".starts");
  }
  return schedules;
}

}  // namespace

Schedules::Schedules(Schedule whole, std::vector<ScheduleStart> starts)
    : whole_(std::move(whole)), starts_(std::move(starts)) {}

Schedule Schedules::joined(const ScheduleStart& start) const {
  Schedule schedule = start.own;
  schedule.table.init_noise_sigma = whole_.table.init_noise_sigma;
  for (size_t i = start.next; i < whole_.table.rows.size(); ++i) {
    append(schedule, whole_.table.rows[i], whole_.levels[i]);
  }
  return schedule;
}

Schedule Schedules::from_picture(double strength) const {
  require(!starts_.empty(), ErrorKind::unsupported_model,
          "[generate] the file's scheduler begins from no picture");
  require(strength >= starts_[0].strength, ErrorKind::invalid_argument,
          "[generate] strength must be at least ", starts_[0].strength, " for ",
          whole_.table.rows.size(), " steps, got ", strength, "; give more or take fewer steps");
  const auto after = std::upper_bound(
      starts_.begin(), starts_.end(), strength,
      [](double wanted, const ScheduleStart& start) { return wanted < start.strength; });
  return joined(*std::prev(after));
}

std::map<int64_t, Schedules> read_schedules(const gguf::Metadata& metadata) {
  std::map<int64_t, Schedules> all;
  for (const auto& [key, value] : metadata) {
    if (!key.starts_with(kTable) || !key.ends_with(kRows)) continue;
    const std::string prefix = key.substr(0, key.size() - kRows.size());
    const std::string number = prefix.substr(std::min(kTable.size(), prefix.size()));
    int64_t steps = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), steps);
    require(error == std::errc() && end == number.data() + number.size() && steps >= 1 &&
                steps <= metadata::kMost,
            ErrorKind::checkpoint, "[model] ", gguf::printable(key),
            " does not name a number of steps");
    all.emplace(steps, read_table(metadata, prefix));
  }
  return all;
}

}  // namespace sdcore
