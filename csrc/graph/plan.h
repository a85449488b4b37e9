// A graph with sizes: fused, every value placed in one arena, peak memory known, nothing allocated.
#pragma once

#include "graph/infer.h"

namespace sdcore {

struct Plan {
  Graph graph;                   // after the passes
  size_t steady_nodes = 0;       // the first: they need not run again while steady inputs last
  ValueTypes types;              // logical, by value
  std::vector<View> views;       // sizes, strides, dtype and halo by value; no memory behind them
  std::vector<int64_t> offsets;  // bytes from the start of its memory by value; -1: in none
  std::vector<bool> kept;  // by value: whether that memory is the one that lasts, not the arena
  std::vector<int64_t> workspaces;  // bytes from the start of the arena by node
  int64_t arena_bytes = 0;
  int64_t kept_bytes = 0;  // steady values that other nodes read
};

// What activations are to be held in, by its name. Throws Error(invalid_argument) for all others.
DType activation_dtype(std::string_view name);
// Throws likewise where a device (null: this processor) has no kernels for it.
void require_dtype(DType dtype, const gpu::Device* gpu);

// `dtype` is what activations are held in. Weights are not needed: this is the null device. `gpu`
// is asked for nothing but what its kernels want. `steady` are inputs that are the same in several
// runs; without any, nothing is kept between runs.
Plan make_plan(const Graph& graph, const InputShapes& inputs, DType dtype, Isa isa,
               gpu::Device* gpu = nullptr, const InputNames& steady = {});

}  // namespace sdcore
