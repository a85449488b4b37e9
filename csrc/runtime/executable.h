// A plan with its kernels chosen and its weights prepared. Immutable; what changes during a run is
// the Session.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "graph/plan.h"

namespace sdcore {

// The memory of one run at a time.
struct Session {
  Buffer arena;
  std::vector<View> views;  // by value, with addresses
};

struct StepTime {
  std::string label;  // op and weight
  std::string op;
  double seconds = 0.0;
  double flops = 0.0;
};

// Dense arrays of the caller: f32, or i32 for inputs of whole numbers.
using InputArrays = std::map<std::string, const void*>;
using OutputArrays = std::map<std::string, float*>;

class Executable {
 public:
  Executable(Plan plan, WeightStore& weights, DType dtype, const KernelContext& kernels);

  const Plan& plan() const { return plan_; }
  std::unique_ptr<Session> new_session() const;
  // Fills `times`, if given, with one entry a step.
  void run(Session& session, const InputArrays& inputs, const OutputArrays& outputs,
           const KernelContext& kernels, std::vector<StepTime>* times = nullptr) const;

 private:
  Plan plan_;
  std::vector<Step> steps_;      // by node; empty where nothing moves
  std::vector<View> constants_;  // by value: weights that are read as plain values
};

}  // namespace sdcore
