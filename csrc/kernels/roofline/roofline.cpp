#include "kernels/roofline/roofline.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "base/buffer.h"
#include "kernels/roofline/kernel.h"

namespace sdcore {
namespace {

using roofline::Kernel;

constexpr std::array kKernels = {
#define SDCORE_KERNEL(kernel) &roofline::kernel,
#include "kernels/roofline/kernels.inc"
#undef SDCORE_KERNEL
};

constexpr int kRuns = 4;
constexpr double kRunSeconds = 0.02;
// Past the last level of any cache that a thread has to itself.
constexpr int64_t kReadBytes = 128 << 20;

template <class Body>
double seconds(Body body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class Body>
double fastest(int runs, Body body) {
  double best = seconds(body);
  for (int i = 1; i < runs; ++i) best = std::min(best, seconds(body));
  return best;
}

Peak measure(const Kernel& kernel, const KernelContext& context) {
  int64_t rounds = 1 << 10;
  while (seconds([&] { kernel.run(rounds); }) < kRunSeconds) rounds *= 2;
  const double time = fastest(kRuns, [&] {
    context.pool.parallel_for(context.pool.size(), [&](int64_t, int) { kernel.run(rounds); });
  });
  const auto total = static_cast<double>(rounds * context.pool.size());
  return {kernel.name, kernel.isa, total * kernel.operations / time};
}

}  // namespace

std::vector<Peak> measure_peaks(const KernelContext& context) {
  std::vector<Peak> peaks;
  for (const Kernel* kernel : kKernels) {
    if (!permits(context.isa, kernel->isa)) continue;
    peaks.push_back(measure(*kernel, context));
  }
  return peaks;
}

double measure_memory_read(const KernelContext& context) {
  const int threads = context.pool.size();
  const Buffer memory(static_cast<size_t>(kReadBytes * threads));
  std::memset(memory.data(), 1, memory.size());  // memory that was never written is not read
  std::vector<uint64_t> totals(static_cast<size_t>(threads));
  const double time = fastest(kRuns, [&] {
    context.pool.parallel_for(threads, [&](int64_t part, int) {
      // Eight sums, so that loads and not additions are what is waited for.
      uint64_t sums[8] = {};
      const auto* from = reinterpret_cast<const uint64_t*>(memory.data() + part * kReadBytes);
      for (int64_t i = 0; i < kReadBytes / 8; i += 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) sums[j] += from[i + j];
      }
      for (const uint64_t sum : sums) totals[static_cast<size_t>(part)] += sum;
    });
  });
  [[maybe_unused]] const volatile uint64_t keep = totals[0];
  return static_cast<double>(memory.size()) / time;
}

}  // namespace sdcore
