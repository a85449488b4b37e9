// The words of CUDA C++ and of intrinsics.cuh for a C++ compiler: blocks run one after another, the
// threads of a block as fibers of this thread, each until it waits for others. Written from the PTX
// ISA's pictures of fragments and not from what kernels do with them, so that a kernel that is
// right here has its fragments right. To show what a GPU would only show sometimes: shared memory
// begins as NaN, every warp runs as far ahead of the others as it can, each first in its turn, and
// an asynchronous copy lands either at once or only when it is waited for.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/half.h"
#include "gpu/device.h"

// NOLINTBEGIN: CUDA's names
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SDCORE_UNROLL
#define __restrict__ __restrict
// NOLINTEND

namespace sdcore::gpu::emulation {

struct Index {
  uint32_t x = 1, y = 1, z = 1;
  Index() = default;
  // As in CUDA, a number is a row of so many.
  Index(int64_t ix, int64_t iy = 1, int64_t iz = 1)
      : x(static_cast<uint32_t>(ix)), y(static_cast<uint32_t>(iy)), z(static_cast<uint32_t>(iz)) {}
};

// Where the running thread is.
struct Place {
  Index thread, block, block_size, grid_size;
  int lane = 0;
  int rank = 0;   // of the block in its cluster
  int fiber = 0;  // of all threads that run beside it
};
// The same for as long as a thread lives, so that a kernel asks once.
[[gnu::const]] const Place& place();

// Puts work into the device's lane of kernels.
void enqueue(Device& device, std::function<void()> work);
// Runs body() as every thread of every block, as the device's architecture can.
void run(int architecture, Index grid, Index block, size_t shared_bytes,
         const std::function<void()>& body, Index cluster = {});

[[gnu::const]] std::byte* shared_memory();
std::byte* shared_memory_of(int rank);
void wait_for_block();
void wait_for_cluster();
// For who waits in a loop: lets others run; for who changed what they wait for; and for both, lets
// other warps run.
void let_others();
void get_on();
void let_other_warps();
// Something that no GPU takes; the launch fails with it.
void break_rule(const char* what);
// Returns when all lanes of the warp have called it; the last calls act(lanes), `lanes` being what
// each gave, in order.
using Lanes = void* const (&)[32];
void with_warp(void* mine, void (*act)(Lanes lanes));

void copy_async(void* to, const void* from, bool present);
void commit_copies();
void await_copies(int groups);

}  // namespace sdcore::gpu::emulation

namespace sdcore::gpu {
namespace {

using dim3 = emulation::Index;

inline constexpr Backend kBackend = Backend::emulated;

template <class... Parameters, class... Args>
void launch(Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            const Args&... args) {
  emulation::enqueue(device, [=, architecture = device.architecture()] {
    emulation::run(architecture, grid, block, shared, [&] { kernel(args...); });
  });
}

inline std::byte* shared_memory() { return emulation::shared_memory(); }
inline void wait_for_block() { emulation::wait_for_block(); }
inline void wait_for_warp() {
  emulation::with_warp(nullptr, [](emulation::Lanes) {});
}

inline float shuffle_xor(float value, int mask) {
  struct Exchange {
    float value, result;
    int mask;
  } mine{value, 0.0f, mask};
  emulation::with_warp(&mine, [](emulation::Lanes lanes) {
    for (int i = 0; i < 32; ++i) {
      auto* to = static_cast<Exchange*>(lanes[i]);
      to->result = static_cast<Exchange*>(lanes[i ^ to->mask])->value;
    }
  });
  return mine.result;
}

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t as_bits(float value) { return std::bit_cast<uint32_t>(value); }
inline float widen(bf16 value) { return to_float(value); }
inline float widen(f16 value) { return to_float(value); }
inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

template <class T>
inline uint32_t pack(float low, float high) {
  const auto bits = [](float value) -> uint32_t {
    if constexpr (std::is_same_v<T, f16>) return to_f16(value).bits;
    return to_bf16(value).bits;
  };
  return bits(low) | bits(high) << 16;
}

// The half of a register that holds element `i` of a pair.
template <class T>
inline float half_of(uint32_t pair, int i) {
  return to_float(T{static_cast<uint16_t>(pair >> (16 * i))});
}

// PTX ISA, "Matrix fragments for mma.m16n8k16": with group = lane / 4 and place = lane % 4, a[i]
// holds row group (+ 8 for odd i) and columns 2 place, + 1 (+ 8 from i = 2); b[i] holds rows
// 2 place, + 1 (+ 8 for i = 1) of column group; sum[i] row group (+ 8 from i = 2), column 2 place
// (+ 1 for odd i).
template <class T>
inline void mma(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    float* sum;
    const uint32_t *a, *b;
  } mine{sum, a, b};
  emulation::with_warp(&mine, [](emulation::Lanes lanes) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto* f = static_cast<const Fragments*>(lanes[lane]);
      const int group = lane / 4, column = lane % 4 * 2;
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 4; ++i) {
          left[group + i % 2 * 8][column + i / 2 * 8 + half] = half_of<T>(f->a[i], half);
        }
        for (int i = 0; i < 2; ++i) right[column + i * 8 + half][group] = half_of<T>(f->b[i], half);
      }
    }
    float product[16][8] = {};
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < 16; ++k) {
        for (int column = 0; column < 8; ++column) {
          product[row][column] += left[row][k] * right[k][column];
        }
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      const auto* f = static_cast<const Fragments*>(lanes[lane]);
      for (int i = 0; i < 4; ++i) {
        f->sum[i] += product[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
      }
    }
  });
}

// PTX ISA, ldmatrix: register i of a lane holds elements 2 (lane % 4), + 1 of row lane / 4 of
// matrix i, or, transposed, those rows of column lane / 4.
template <bool transposed>
inline void load_fragments(uint32_t (&to)[4], const void* row) {
  struct Ask {
    uint32_t* to;
    const void* row;
  } mine{to, row};
  emulation::with_warp(&mine, [](emulation::Lanes lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t pair[2];
        for (int half = 0; half < 2; ++half) {
          const int first = lane / 4, second = lane % 4 * 2 + half;
          const int in_row = transposed ? second : first, in_column = transposed ? first : second;
          const void* from = static_cast<const Ask*>(lanes[matrix * 8 + in_row])->row;
          std::memcpy(&pair[half], static_cast<const std::byte*>(from) + 2 * in_column, 2);
        }
        static_cast<Ask*>(lanes[lane])->to[matrix] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
      }
    }
  });
}
inline void load_matrices(uint32_t (&to)[4], const void* row) { load_fragments<false>(to, row); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  load_fragments<true>(to, row);
}

inline void copy_async(void* to, const void* from, bool present) {
  emulation::copy_async(to, from, present);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int groups>
inline void await_copies() {
  emulation::await_copies(groups);
}

inline bool claim(uint32_t* word, uint32_t value) {
  if (*word != 0) return false;
  *word = value;
  return true;
}

}  // namespace
}  // namespace sdcore::gpu

// NOLINTBEGIN: CUDA's names
#define threadIdx (::sdcore::gpu::emulation::place().thread)
#define blockIdx (::sdcore::gpu::emulation::place().block)
#define blockDim (::sdcore::gpu::emulation::place().block_size)
#define gridDim (::sdcore::gpu::emulation::place().grid_size)
// NOLINTEND
