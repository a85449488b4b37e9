// A plan with its kernels chosen and its weights prepared. Immutable; what changes during a run is
// the Session.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "gpu/streaming.h"
#include "graph/plan.h"

namespace sdcore {

// The memory of one run at a time.
struct Session {
  Buffer arena;
  std::vector<View> views;  // by value, with addresses
};

struct StepTime {
  std::string label;  // op and weight
  std::string op;     // of linear layers that multiply integers: "linear int8"
  double seconds = 0.0;
  double flops = 0.0;
};

// What came into a linear layer: for each input the sum of its squares over all rows.
struct InputSquares {
  std::vector<double> sums;
  int64_t rows = 0;
};

// What a run tells of itself, where somebody asks.
struct Observer {
  std::vector<StepTime>* times = nullptr;  // one entry a step
  std::map<std::string, InputSquares>* squares =
      nullptr;  // by weight [o, i], added to what is there
  // Called on the thread of the run before each step on the processor; what it throws ends the run.
  std::function<void()> before_step;
};

// Dense arrays of the caller: f32, or i32 for inputs of whole numbers. They are in the program's
// memory, or, where the network is on a device, in that device's; there inputs may be of 16 bits
// too.
struct InputArray {
  InputArray() = default;
  InputArray(const void* array) : data(array) {}
  InputArray(const void* array, DType type) : data(array), dtype(type), on_device(true) {}

  const void* data = nullptr;
  DType dtype = DType::f32;  // told only of those on a device
  bool on_device = false;
};
struct OutputArray {
  OutputArray() = default;
  OutputArray(float* array, bool is_on_device = false) : data(array), on_device(is_on_device) {}

  float* data = nullptr;
  bool on_device = false;
};
using InputArrays = std::map<std::string, InputArray>;
using OutputArrays = std::map<std::string, OutputArray>;

class Executable {
 public:
  Executable(Plan plan, WeightStore& weights, DType dtype, const KernelContext& kernels);

  const Plan& plan() const { return plan_; }
  size_t arena_bytes() const { return static_cast<size_t>(plan_.arena_bytes); }
  // Bytes that steady values take from run to run, outside of the arena.
  size_t kept_bytes() const { return static_cast<size_t>(plan_.kept_bytes); }
  // By value, in an arena of arena_bytes() or more, and memory of kept_bytes().
  std::vector<View> views_in(std::byte* arena, std::byte* kept) const;
  // One node; its output's border is zero afterwards too.
  void run_step(size_t node, const Run& run) const;
  StepTime timed(size_t node, double seconds) const;
  // The weight that a node's step reads from the program's memory, on its way through the device;
  // null: none.
  gpu::Streamed* streamed(size_t node) const { return streamed_[node]; }
  // Makes what is kept, of the steady inputs.
  void run_steady(const Session& session, const InputArrays& inputs, const KernelContext& kernels,
                  const Observer& observer = {}) const;
  // All else, with what is kept and the other inputs.
  void run(const Session& session, const InputArrays& inputs, const OutputArrays& outputs,
           const KernelContext& kernels, const Observer& observer = {}) const;

 private:
  void take_in(const Session& session, const InputArrays& inputs, bool steady,
               const KernelContext& kernels) const;
  void run_nodes(size_t from, size_t to, const Session& session, const KernelContext& kernels,
                 const Observer& observer) const;

  Plan plan_;
  std::vector<Step> steps_;               // by node; empty where nothing moves
  std::vector<const char*> names_;        // by node, for profiles
  std::vector<gpu::Streamed*> streamed_;  // by node; the steps keep them alive
  std::vector<View> constants_;           // by value: weights that are read as plain values
};

}  // namespace sdcore
