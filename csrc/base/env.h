// Every environment variable that sdcore reads, and nothing else reads the environment.
#pragma once

#include <optional>
#include <string>

namespace sdcore::env {

// SDCORE_ISA: the highest instruction-set level to use: generic, avx2, avx2_vnni, avx512,
// avx512_vnni, avx512_bf16 or amx.
std::optional<std::string> isa();

// SDCORE_NUM_THREADS, or else OMP_NUM_THREADS: threads to use when the caller does not say.
std::optional<int> num_threads();

// SDCORE_CUDA_ARCHITECTURE: the newest GPUs (80, 90) whose own kernels are used.
std::optional<int> cuda_architecture();

}  // namespace sdcore::env
