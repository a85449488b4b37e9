// What one variant of attention provides.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu.h"
#include "kernels/attention/attention.h"

namespace sdcore::attention_kernels {

// Queries [begin, end) of one head of one image: the work of one task.
struct Block {
  int64_t image, head, begin, end;
};

struct Kernel {
  Isa isa;
  bool takes_f32;         // all take bf16
  int64_t least_queries;  // with fewer, the rows after it are faster
  int64_t queries;        // of a full block
  size_t (*workspace_bytes)(const AttentionArgs& args);
  size_t (*scratch_bytes)(const AttentionArgs& args);  // of a thread
  // Before any block, once for each task in [0, pack_tasks): fills the workspace.
  int64_t (*pack_tasks)(const AttentionArgs& args);
  void (*pack)(const AttentionArgs& args, int64_t task);
  void (*attend)(const AttentionArgs& args, const Block& block, std::byte* scratch);
};

#define SDCORE_KERNEL(name) extern const Kernel kernel_##name;
#include "kernels/attention/kernels.inc"
#undef SDCORE_KERNEL

}  // namespace sdcore::attention_kernels
