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
        stride((descriptor >> 32 & 0x3fff) << 4),
        shared(shared_memory()) {}

  template <class E>
  void along(int row, float (&numbers)[16]) const {
    for (int k = 0; k < 16; ++k) {
      numbers[k] = at<E>(start + static_cast<uint64_t>(row / 8) * stride +
                         static_cast<uint64_t>(row % 8 * 128 + k * 2));
    }
  }
  template <class E>
  void across(int column, float (&numbers)[16]) const {
    for (int k = 0; k < 16; ++k) {
      numbers[k] = at<E>(start + static_cast<uint64_t>(column / 64) * leading +
                         static_cast<uint64_t>(k / 8) * stride +
                         static_cast<uint64_t>(k % 8 * 128 + column % 64 * 2));
    }
  }
  template <class E>
  float at(uint64_t address) const {
    E value;
    std::memcpy(&value, shared + (address ^ (address >> 7 & 7) << 4), sizeof(E));
    return to_float(value);
  }

  uint64_t start, leading, stride;
  const std::byte* shared;
};

inline float dot(const float (&a)[16], const float (&b)[16]) {
  float sum = 0.0f;
  for (int k = 0; k < 16; ++k) sum += a[k] * b[k];
  return sum;
}

// Adds a thread's part of a product, its two rows by what `column_of(column, numbers)` gives. In
// each eight of columns it has two.
template <int n, class ColumnOf>
inline void add_products(float (&sums)[n / 2], int thread, const float (&rows)[2][16],
                         const ColumnOf& column_of) {
  for (int pair = 0; pair < n / 4; ++pair) {
    float numbers[16];
    column_of(pair / 2 * 8 + thread % 4 * 2 + pair % 2, numbers);
    for (int row = 0; row < 2; ++row) {
      sums[pair / 2 * 4 + row * 2 + pair % 2] += dot(rows[row], numbers);
    }
  }
}

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
    float rows[2][16];
    for (int i = 0; i < 2; ++i) {
      left.template along<E>(thread / 32 * 16 + thread % 32 / 4 + i * 8, rows[i]);
    }
    add_products<n>(sums, thread, rows, [&](int column, float(&numbers)[16]) {
      right.template along<E>(column, numbers);
    });
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
    add_products<n>(sums, thread, rows.numbers, [&](int column, float(&numbers)[16]) {
      right.template across<E>(column, numbers);
    });
  });
}

}  // namespace
}  // namespace sdcore::gpu
