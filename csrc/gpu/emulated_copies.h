// tensor_copies.cuh for a C++ compiler, written from the PTX ISA: half of the boxes land at once
// and half only when somebody waits for them, so that what is read before its time and what is
// overwritten too early shows.
#pragma once

#include <map>
#include <vector>

#include "base/view.h"
#include "gpu/emulation.h"

#define __grid_constant__  // NOLINT: CUDA's name

namespace sdcore::gpu {
namespace {

struct TensorBox {
  const void* data;
  uint64_t size[4];
  uint64_t stride[3];
  uint32_t box[4];
  uint32_t step[4];
};
using TensorMap = TensorBox;

inline TensorMap tensor_map(const TensorBox& box, DType) {
  bool right = reinterpret_cast<uintptr_t>(box.data) % 16 == 0 && box.box[0] * 2 == 128;
  for (const uint64_t stride : box.stride) right &= stride % 16 == 0 && stride > 0;
  for (const uint64_t size : box.size) right &= size > 0;
  for (int i = 0; i < 4; ++i)
    right &= (box.box[i] - 1) * box.step[i] + 1 <= 256 && box.step[i] <= 8;
  require(right, ErrorKind::internal, "[emulated] a tensor map that no GPU takes");
  return box;
}

template <class... Parameters, class... Args>
void launch_clusters(Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                     size_t shared, dim3 cluster, const Args&... args) {
  emulation::enqueue(device, [=, architecture = device.architecture()] {
    emulation::run(architecture, grid, block, shared, [&] { kernel(args...); }, cluster);
  });
}

inline void wait_for_cluster() { emulation::wait_for_cluster(); }
inline void meet_cluster() { emulation::wait_for_cluster(); }

struct alignas(16) Quad {
  float v[4];
};
inline Quad load_from(const void* shared, uint32_t rank) {
  const auto offset = static_cast<const std::byte*>(shared) - shared_memory();
  Quad quad;
  std::memcpy(&quad, emulation::shared_memory_of(static_cast<int>(rank)) + offset, sizeof(quad));
  return quad;
}

struct Barrier {
  uint16_t wanted, pending;
  uint32_t phase;
  int64_t bytes;  // that are still to come
};

// Boxes on their way, by the barrier that waits for them.
inline std::map<Barrier*, std::vector<std::function<void()>>>& landings() {
  thread_local std::map<Barrier*, std::vector<std::function<void()>>> all;
  return all;
}

inline void init_barrier(Barrier* barrier, uint32_t arrivals) {
  *barrier = {static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0, 0};
  landings()[barrier].clear();
}
inline void publish_barriers() {}
inline void settle(Barrier* barrier) {
  if (barrier->pending > 0 || barrier->bytes != 0) return;
  barrier->pending = barrier->wanted;
  ++barrier->phase;
  emulation::get_on();
}
inline void arrive(Barrier* barrier) {
  --barrier->pending;
  settle(barrier);
  // Who has waited for this goes first: what is given away too early is overwritten.
  emulation::let_other_warps();
}
inline void arrive_expecting(Barrier* barrier, uint32_t bytes) {
  barrier->bytes += bytes;
  --barrier->pending;
  settle(barrier);
}
inline void await_barrier(Barrier* barrier, uint32_t parity) {
  while (barrier->phase % 2 == parity) {
    auto late = std::move(landings()[barrier]);
    landings()[barrier].clear();
    for (const auto& land : late) land();
    if (barrier->phase % 2 == parity) emulation::let_others();
  }
}

inline void land_box(std::byte* to, const TensorMap& map, const int (&at)[4], Barrier* barrier) {
  uint32_t row = 0;
  const uint32_t* box = map.box;
  for (uint32_t n = 0; n < box[3]; ++n) {
    for (uint32_t y = 0; y < box[2]; ++y) {
      for (uint32_t x = 0; x < box[1]; ++x, ++row) {
        const int64_t places[3] = {at[1] + int64_t{x} * map.step[1],
                                   at[2] + int64_t{y} * map.step[2],
                                   at[3] + int64_t{n} * map.step[3]};
        bool inside = true;
        const auto* from = static_cast<const std::byte*>(map.data);
        for (int i = 0; i < 3; ++i) {
          inside &= places[i] >= 0 && places[i] < static_cast<int64_t>(map.size[i + 1]);
          from += places[i] * static_cast<int64_t>(map.stride[i]);
        }
        for (uint32_t c = 0; c < box[0]; ++c) {
          const int64_t channel = at[0] + int64_t{c};
          const bool there = inside && channel >= 0 && channel < static_cast<int64_t>(map.size[0]);
          const uint32_t place = row * 128 + (((c / 8) ^ (row % 8)) * 16) + c % 8 * 2;
          if (there) {
            std::memcpy(to + place, from + channel * 2, 2);
          } else {
            std::memset(to + place, 0, 2);
          }
        }
      }
    }
  }
  barrier->bytes -= int64_t{row} * 128;
  settle(barrier);
}

inline void copy_box(void* to, const TensorMap* map, int c0, int c1, int c2, int c3,
                     Barrier* barrier) {
  if ((static_cast<std::byte*>(to) - shared_memory()) % 1024 != 0) {
    emulation::break_rule("a swizzled box does not begin at a multiple of 1024");
  }
  const auto land = [=, map = *map] {
    const int at[4] = {c0, c1, c2, c3};
    land_box(static_cast<std::byte*>(to), map, at, barrier);
  };
  thread_local bool late = false;
  late = !late;
  if (late) {
    landings()[barrier].push_back(land);
  } else {
    land();
  }
}
inline void prefetch(const TensorMap*) {}

}  // namespace
}  // namespace sdcore::gpu
