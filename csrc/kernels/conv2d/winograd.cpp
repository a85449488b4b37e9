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

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

const Kernel& kernel_for(DType dtype, Isa isa) {
  return pick(kRows, isa,
              [&](const Kernel& kernel) { return !kernel.integers || dtype == DType::bf16; });
}

struct Rounds {
  int64_t blocks, tiles_w, image_tiles, tiles;
  int64_t round_tiles, point_stride, patch_bytes, bytes;

  Rounds(const Conv2dArgs& a, const Kernel& kernel)
      : blocks(ceil_div(a.in.c, kBlock)),
        tiles_w(ceil_div(a.out.w, kTile)),
        image_tiles(ceil_div(a.out.h, kTile) * tiles_w),
        tiles(a.out.n * image_tiles) {
    const int64_t tile_bytes = blocks * kPoints * kBlock * kernel.element_bytes;
    const int64_t most = std::max(kRoundBytes / tile_bytes, kernel.group / 2);
    round_tiles = ceil_div(tiles, std::max<int64_t>(ceil_div(tiles, most), 1));
    point_stride = round_tiles * kBlock + kApart / kernel.element_bytes;
    patch_bytes = blocks * kPoints * point_stride * kernel.element_bytes;
    bytes = patch_bytes + (kernel.integers ? blocks * round_tiles * int64_t{sizeof(float)} : 0);
  }
};

// What the weight says of one.
Job job_of(const PackedWeight& weight) {
  Job job;
  job.product.outputs = weight.outputs;
  job.product.stored = weight.stored;
  job.product.panels = weight.panels.data();
  job.product.panel_bytes = weight.panel_bytes();
  job.product.offsets = weight.offsets;
  job.channels = weight.inputs;
  job.norms = weight.norms.data();
  return job;
}

}  // namespace

// Above this level, bf16 has instructions of its own that leave these behind.
bool suits(DType dtype, Isa isa) { return dtype != DType::bf16 || isa < Isa::avx512_bf16; }

bool suits(const Conv2dArgs& a, Isa isa) {
  if (!suits(a.in.dtype, isa)) return false;
  if (a.kernel_h != 3 || a.kernel_w != 3 || a.stride != 1 || a.in.c < 16) return false;
  // Multiplications of one image: as tiles, with what moving a weight costs, and as a plain sum.
  // Integers are multiplied twice as fast, and cost more to move.
  const int64_t tiles = ceil_div(a.out.h, kTile) * ceil_div(a.out.w, kTile);
  const int64_t plain = 9 * a.out.h * a.out.w * 3 / 4;
  return kernel_for(a.in.dtype, isa).integers ? kPoints * tiles + 320 < 2 * plain
                                              : kPoints * tiles + 110 < plain;
}

bool multiplies_integers(DType dtype, Isa isa) {
  return suits(dtype, isa) && kernel_for(dtype, isa).integers;
}

std::vector<float> weight_norms(const PackedWeight& weight, const KernelContext& context) {
  std::vector<float> norms;
  if (weight.kernel != 9 || !multiplies_integers(weight.dtype, context.isa)) return norms;
  const Kernel& kernel = kernel_for(weight.dtype, context.isa);
  norms.resize(static_cast<size_t>(weight.panel_count() * kernel.panel));
  const Job job = job_of(weight);
  context.pool.parallel_for(weight.panel_count(), [&](int64_t panel, int) {
    kernel.measure(job, panel, norms.data() + panel * kernel.panel);
  });
  return norms;
}

size_t workspace_bytes(const Conv2dArgs& args, Isa isa) {
  return static_cast<size_t>(Rounds(args, kernel_for(args.in.dtype, isa)).bytes);
}

void conv2d(const Conv2dArgs& a, const KernelContext& context) {
  const PackedWeight& weight = *a.weight;
  const Kernel& kernel = kernel_for(a.in.dtype, context.isa);
  require(!weight.variant->pairs && kernel.panel == weight.variant->panel, ErrorKind::internal,
          "[conv2d] a weight packed for ", weight.variant->name);
  const Rounds rounds(a, kernel);
  Job job = job_of(weight);
  job.product.out = a.out;
  job.product.epilogue = a.epilogue;
  job.in = a.in;
  job.pad_top = a.pad_top;
  job.pad_left = a.pad_left;
  job.tiles_w = rounds.tiles_w;
  job.image_tiles = rounds.image_tiles;
  job.patches = static_cast<std::byte*>(a.workspace);
  job.point_stride = rounds.point_stride;
  job.scales = reinterpret_cast<float*>(job.patches + rounds.patch_bytes);
  const auto lock = context.pool.reserve_scratch(kernel.scratch_bytes);
  for (; job.first < rounds.tiles; job.first += job.count) {
    job.count = std::min(rounds.round_tiles, rounds.tiles - job.first);
    job.groups = ceil_div(job.count, kernel.group);
    context.pool.parallel_for(job.count, [&](int64_t tile, int) { kernel.move_patch(job, tile); });
    context.pool.parallel_for(weight.panel_count() * job.groups, [&](int64_t task, int thread) {
      kernel.multiply(job, task / job.groups, task % job.groups, context.pool.scratch(thread));
    });
  }
}

}  // namespace sdcore::winograd
