// The sampler: applies the rows of a scheduler's table, and knows nothing else about schedulers.
#pragma once

#include <cstdint>
#include <vector>

#include "sampler/step_table.h"

namespace sdcore {

// Classifier-free guidance: out = uncond + scale * (cond - uncond). `out` may be either input.
void guide(const float* uncond, const float* cond, float scale, int64_t n, float* out);

// The state of one run over a table: what past steps left that later rows look back at. Not safe to
// share between threads. Arithmetic is float32, element by element, in one fixed order, so a result
// does not depend on what else is in the batch.
class Sampler {
 public:
  // Throws Error(invalid_argument) when the table cannot be applied.
  explicit Sampler(StepTable table);

  const StepTable& table() const { return table_; }

  // One step with row `index`: n elements of x, those of `images` images one after another, and the
  // model's output become the next x in `out`, which may be `x`. `noise` may be null when the row
  // draws none. Steps whose rows look back must
  // follow one another; a row that does not continue the last one starts a new run, as img2img does
  // in the middle of the table.
  void step(int64_t index, const float* x, const float* model_output, const float* noise, int64_t n,
            int64_t images, float* out);

  // What the last step took the clean image to be: the preview.
  const std::vector<float>& x0() const { return x0_; }

 private:
  struct Past {
    std::vector<float> x, x0, model, noise;
  };

  void begin(int64_t index, int64_t n);
  void remember(const float* x, const float* model_output, const float* noise, int64_t n);

  StepTable table_;
  int64_t depth_ = 0;       // how many steps back any row looks
  std::vector<Past> past_;  // ring of the last `depth_` steps
  int64_t done_ = 0;        // steps of this run
  int64_t next_ = -1;       // the row that would continue this run
  std::vector<float> x0_, sum_;
};

}  // namespace sdcore
