// What this processor can do at best, measured: multiplications from registers alone at every
// level, and reading memory. Benchmarks state their figures as shares of these.
#pragma once

#include <string>
#include <vector>

#include "kernels/context.h"

namespace sdcore {

struct Peak {
  std::string name;  // "avx2 f32", "amx bf16" …
  Isa isa;
  double per_second;  // multiply-adds counted as two
};

// Every kind of multiplication up to the context's level, on all of its threads; takes about 0.1 s
// each. The best of a few runs: neighbours on the machine only ever take away.
std::vector<Peak> measure_peaks(const KernelContext& context);

// Bytes a second that all threads together read from memory, from a buffer past any cache.
double measure_memory_read(const KernelContext& context);

}  // namespace sdcore
