// warpgroups.cuh for a C++ compiler, written from the PTX ISA's pictures of descriptors and
// fragments. A product of the GPU reads its operands at any time until it is waited for, so here
// half of the threads compute theirs at once and half when they wait: what is overwritten too early
// and what is used before its time show.
#pragma once

#include <vector>

#include "gpu/emulation.h"

namespace sdcore::gpu {
namespace {

inline constexpr bool kHasWarpgroups = true;
inline constexpr size_t kSwizzleBytes = 1024;

// Addresses of shared memory are counted from its beginning.
inline uint64_t shared_offset(const void* at) {
  return static_cast<uint64_t>(static_cast<const std::byte*>(at) - shared_memory());
}
inline std::byte* aligned_shared_memory() { return shared_memory(); }

inline uint64_t tile_at(const void* first, uint32_t next_columns = 16) {
  return (shared_offset(first) >> 4 & 0x3fff) | uint64_t{next_columns >> 4} << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline uint64_t tile_after(uint64_t tile, uint32_t bytes) { return tile + (bytes >> 4); }

// An operand as its descriptor says it lies: its rows along the sum, or across it.
struct Operand {
  explicit Operand(uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4) {}

  template <class E>
  float along(int row, int k) const {
    return at<E>(start + static_cast<uint64_t>(row / 8) * stride +
                 static_cast<uint64_t>(row % 8 * 128 + k * 2));
  }
  template <class E>
  float across(int column, int k) const {
    return at<E>(start + static_cast<uint64_t>(column / 64) * leading +
                 static_cast<uint64_t>(k / 8) * stride +
                 static_cast<uint64_t>(k % 8 * 128 + column % 64 * 2));
  }
  template <class E>
  static float at(uint64_t address) {
    E value;
    std::memcpy(&value, shared_memory() + (address ^ (address >> 7 & 7) << 4), sizeof(E));
    return to_float(value);
  }

  uint64_t start, leading, stride;
};

// The products of a thread that are under way, in committed groups and not yet committed.
struct Products {
  std::vector<std::vector<std::function<void()>>> groups;
  std::vector<std::function<void()>> open;
};
inline Products& products() {
  thread_local std::vector<Products> all;
  const auto fiber = static_cast<size_t>(emulation::place().fiber);
  if (all.size() <= fiber) all.resize(fiber + 1);
  return all[fiber];
}
// Late ones are done only when they are waited for.
inline void start_product(std::function<void()> product) {
  if (emulation::place().lane % 2 == 0) return product();
  products().open.push_back(std::move(product));
}

inline void begin_products() { wait_for_warp(); }
inline void commit_products() {
  Products& own = products();
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}
template <int groups>
inline void await_products() {
  auto& under_way = products().groups;
  while (under_way.size() > static_cast<size_t>(groups)) {
    for (const auto& product : under_way.front()) product();
    under_way.erase(under_way.begin());
  }
  wait_for_warp();  // a warp waits as one
}
template <class T, int count>
inline void hold(T (&)[count]) {}

inline int uniform(int value) { return value; }
inline float fast_exp2(float x) { return std::exp2(x); }

// PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16": warp w of the four has rows 16 w to
// 16 w + 15, and of these a thread has those that mma's fragments give it, in eights of columns.
template <class E, int n>
inline void multiply(float (&sums)[n / 2], uint64_t a, uint64_t b) {
  const int thread = static_cast<int>(emulation::place().thread.x) % 128;
  start_product([&sums, thread, left = Operand(a), right = Operand(b)] {
    for (int i = 0; i < n / 2; ++i) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
      const int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      float dot = 0.0f;
      for (int k = 0; k < 16; ++k) {
        dot += left.template along<E>(row, k) * right.template along<E>(column, k);
      }
      sums[i] += dot;
    }
  });
}
template <class E, int n>
inline void multiply_first(float (&sums)[n / 2], uint64_t a, uint64_t b) {
  start_product([&sums] {
    for (float& sum : sums) sum = 0.0f;
  });
  multiply<E, n>(sums, a, b);
}
template <class E, int n>
inline void multiply_rows(float (&sums)[n / 2], const uint32_t (&a)[4], uint64_t b) {
  // A row is spread over four lanes, all of which are here.
  struct Row {
    const uint32_t* own;
    float numbers[2][16];
  } rows{a, {}};
  emulation::with_warp(&rows, [](emulation::Lanes lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      auto* to = static_cast<Row*>(lanes[lane]);
      for (int k = 0; k < 16; ++k) {
        const auto* from = static_cast<const Row*>(lanes[lane / 4 * 4 + k % 8 / 2]);
        for (int row = 0; row < 2; ++row) {
          to->numbers[row][k] = half_of<E>(from->own[k / 8 * 2 + row], k % 2);
        }
      }
    }
  });
  const int thread = static_cast<int>(emulation::place().thread.x) % 128;
  start_product([&sums, thread, rows, right = Operand(b)] {
    for (int i = 0; i < n / 2; ++i) {
      const int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      float dot = 0.0f;
      for (int k = 0; k < 16; ++k) {
        dot += rows.numbers[i / 2 % 2][k] * right.template across<E>(column, k);
      }
      sums[i] += dot;
    }
  });
}

}  // namespace
}  // namespace sdcore::gpu
