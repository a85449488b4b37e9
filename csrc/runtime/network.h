// A graph with its weights, ready to run at any size. Safe to use from many threads at once: each
// call has a session of its own, and executables are made once for each set of sizes.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <optional>

#include "base/guarded.h"
#include "runtime/device_run.h"
#include "runtime/executable.h"
#include "runtime/idle_arena.h"

namespace sdcore {

// Whether weights go through the device layer by layer, from the program's memory.
enum class Streaming : uint8_t { where_they_do_not_fit, always, never };

struct NetworkOptions {
  DType dtype = DType::f32;  // of activations
  Isa isa = Isa::generic;
  std::shared_ptr<ThreadPool> pool;
  gpu::Device* device = nullptr;  // null: this processor
  Streaming streaming = Streaming::where_they_do_not_fit;
};

// What a graph's activations are best held in, by the types of its weights: bf16 on GPUs (in f16
// some networks overflow), where the processor multiplies bf16 in tiles, and where it multiplies
// integers in place of bf16, in convolutions or linear layers; else f32.
using WeightTypes = std::map<std::string, Type, std::less<>>;
DType auto_dtype(const Graph& graph, const WeightTypes& types, Isa isa, bool on_device);

class Network {
 public:
  // Every weight that the graph names must be in `weights`; nothing is prepared yet. Networks may
  // share a store: what one has prepared the other finds.
  Network(Graph graph, std::shared_ptr<WeightStore> weights, NetworkOptions options);

  const Graph& graph() const { return graph_; }
  const WeightStore& weights() const { return *weights_; }
  const std::shared_ptr<WeightStore>& shared_weights() const { return weights_; }
  const NetworkOptions& options() const { return options_; }

  // Makes and caches the executable for these sizes, preparing weights that are not yet prepared.
  // Those of inputs that are in `steady` come from there.
  std::shared_ptr<const Executable> executable(const InputShapes& shapes,
                                               const Steady* steady = nullptr) {
    return entry(shapes, steady).executable;
  }

  // Bytes of weights that every run at the size last used sends to the device.
  size_t streamed_bytes();

  // Gives back memory that only the next run needs; see WeightStore::release. Safe during a run.
  void release();
  // Only that of mapped files, and of blocks woven from them, which the next run reads again: from
  // memory, as a rule, where the system still has them.
  void release_mapped() { weights_->release_mapped(); }

  // `outputs` must have room for the shapes that executable(shapes, steady)->plan() tells. What
  // depends on the inputs in `steady` and on weights alone is computed in the first run with it.
  void run(const InputShapes& shapes, const InputArrays& inputs, const OutputArrays& outputs,
           const Observer& observer = {}, Steady* steady = nullptr);

 private:
  // Of all inputs, and which of them are steady.
  struct Sizes {
    InputShapes shapes;
    InputNames steady;
    bool operator==(const Sizes&) const = default;
  };
  struct Entry {
    Sizes sizes;
    std::shared_ptr<const Executable> executable;
    std::shared_ptr<DeviceRun> on_device;
  };
  using Entries = std::list<Entry>;  // most recently used first

  Sizes with_steady(const InputShapes& shapes, const Steady* steady) const;
  Entry entry(const InputShapes& shapes, const Steady* steady);
  Entry make_entry(const Sizes& sizes, const Plan& plan, gpu::WeightBudget* budget);
  // With the device's turn. What is there is taken from `others` where it must make room.
  Entry make_on_device(const Sizes& sizes, const Plan& plan, Entries& others);
  std::optional<Entry> make_without_streaming(const Sizes& sizes, const Plan& plan);
  KernelContext kernels() const { return {*options_.pool, options_.isa, options_.device}; }

  Graph graph_;
  std::shared_ptr<WeightStore> weights_;
  NetworkOptions options_;
  Guarded<Entries> executables_;
  std::shared_ptr<IdleArena> idle_ = IdleArena::shared();
};

}  // namespace sdcore
