#include "kernels/conv2d/winograd.h"

#include <algorithm>
#include <array>

#include "kernels/gemm/packed_weight.h"
#include "kernels/registry.h"

namespace sdcore::winograd {
namespace {

constexpr std::array kRows = {
#define SDCORE_KERNEL(isa) &kernel_##isa,
#include "kernels/conv2d/kernels.inc"
#undef SDCORE_KERNEL
};

// The moved patches of a round: few enough to stay in the last level of cache, enough tiles to pay
// for moving the weights.
constexpr int64_t kRoundBytes = 6 << 20;
constexpr int64_t kLeastTiles = 24;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Rounds {
  int64_t tiles_w, image_tiles, tiles;
  int64_t round_tiles, point_stride, bytes;

  explicit Rounds(const Conv2dArgs& a)
      : tiles_w(ceil_div(a.out.w, kTile)),
        image_tiles(ceil_div(a.out.h, kTile) * tiles_w),
        tiles(a.out.n * image_tiles) {
    const int64_t blocks = ceil_div(a.in.c, kBlock);
    const int64_t tile_bytes = blocks * kPoints * kBlock * int64_t{sizeof(float)};
    const int64_t most = std::max(kRoundBytes / tile_bytes, kLeastTiles);
    round_tiles = ceil_div(tiles, std::max<int64_t>(ceil_div(tiles, most), 1));
    point_stride = round_tiles * kBlock + kApart;
    bytes = blocks * kPoints * point_stride * int64_t{sizeof(float)};
  }
};

}  // namespace

bool suits(const Conv2dArgs& a, Isa isa) {
  // Above this level, bf16 has instructions of its own that leave float32's behind.
  if (a.in.dtype == DType::bf16 && isa >= Isa::avx512_bf16) return false;
  if (a.kernel_h != 3 || a.kernel_w != 3 || a.stride != 1 || a.in.c < 16) return false;
  // Multiplications of one image: as tiles, with what moving a weight costs, and as a plain sum.
  const int64_t tiles = ceil_div(a.out.h, kTile) * ceil_div(a.out.w, kTile);
  constexpr int64_t weight_cost = 110;
  return kPoints * tiles + weight_cost < 9 * a.out.h * a.out.w * 3 / 4;
}

size_t workspace_bytes(const Conv2dArgs& args) { return static_cast<size_t>(Rounds(args).bytes); }

void conv2d(const Conv2dArgs& a, const KernelContext& context) {
  const PackedWeight& weight = *a.weight;
  const Kernel& kernel = pick(kRows, weight.variant->isa);
  require(!weight.variant->pairs && kernel.panel == weight.variant->panel, ErrorKind::internal,
          "[conv2d] a weight packed for ", weight.variant->name);
  const Rounds rounds(a);
  Job job;
  job.product.outputs = weight.outputs;
  job.product.stored = weight.stored;
  job.product.panels = weight.panels.data();
  job.product.panel_bytes = weight.panel_bytes();
  job.product.out = a.out;
  job.product.epilogue = a.epilogue;
  job.in = a.in;
  job.channels = a.in.c;
  job.pad_top = a.pad_top;
  job.pad_left = a.pad_left;
  job.tiles_w = rounds.tiles_w;
  job.image_tiles = rounds.image_tiles;
  job.patches = static_cast<float*>(a.workspace);
  job.point_stride = rounds.point_stride;
  const auto lock = context.pool.reserve_scratch(kernel.scratch_bytes);
  for (; job.first < rounds.tiles; job.first += job.count) {
    job.count = std::min(rounds.round_tiles, rounds.tiles - job.first);
    job.groups = ceil_div(job.count, kGroup);
    context.pool.parallel_for(job.count, [&](int64_t tile, int) { kernel.move_patch(job, tile); });
    context.pool.parallel_for(weight.panel_count() * job.groups, [&](int64_t task, int thread) {
      kernel.multiply(job, task / job.groups, task % job.groups, context.pool.scratch(thread));
    });
  }
}

}  // namespace sdcore::winograd
