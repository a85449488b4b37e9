// The step tables of an exported file, and those of runs that begin from a picture.
//
//   sdcore.table.<steps>.init_noise_sigma f32
//   sdcore.table.<steps>.terms            u32: terms in every row
//   sdcore.table.<steps>.rows             f32 array, row after row: timestep, input_scale,
//                                         x0_from_x, x0_from_m, clip, quantile, noise, draws (0 or
//                                         1), the shares of picture and noise in what it is given,
//                                         then x, x0, m, z of each term; zero terms at the end of a
//                                         row are none
//   sdcore.table.<steps>.strengths        f64 array, rising: the least strength of each start
//   sdcore.table.<steps>.starts           u32 array, two for each start: how many rows it has of
//                                         its own, and which row of the table goes on after them
//   sdcore.table.<steps>.start_rows       f32 array: those own rows, start after start
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "gguf/format.h"
#include "sampler/step_table.h"

namespace sdcore {

// A noisy sample is picture * its latents + noise * normal noise.
struct NoiseLevel {
  float picture = 1, noise = 0;
};

struct Schedule {
  StepTable table;
  std::vector<NoiseLevel> levels;  // of what each row is given
};

// How a run begins from a picture, where at least this `strength` of the steps is made from it.
struct ScheduleStart {
  double strength = 0;
  Schedule own;     // its first rows
  size_t next = 0;  // the row of the whole schedule that follows them
};

class Schedules {
 public:
  // For one number of steps.
  Schedules(Schedule whole, std::vector<ScheduleStart> starts);

  const Schedule& whole() const { return whole_; }

  // Of a run that begins from a picture. Throws Error(invalid_argument) where so little strength
  // leaves nothing to run.
  Schedule from_picture(double strength) const;

 private:
  Schedule joined(const ScheduleStart& start) const;

  Schedule whole_;
  std::vector<ScheduleStart> starts_;  // of rising strength
};

// By number of steps. Throws Error(checkpoint).
std::map<int64_t, Schedules> read_schedules(const gguf::Metadata& metadata);

}  // namespace sdcore
