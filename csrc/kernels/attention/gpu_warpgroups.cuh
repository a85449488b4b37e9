// Flash attention by warpgroups (wgmma, compute capability 9.0). Four warps have 64 queries; their
// scores and weights stay in registers, where the sums of the first product lie as the second's
// left operand does. The copy engine brings keys and values some turns ahead. A turn's scores are
// multiplied together with the values of the turn before, so that the tensor cores have these to do
// while the scores become weights.
#pragma once

#include "gpu/tensor_copies.cuh"
#include "gpu/warpgroups.cuh"
#include "kernels/attention/gpu.h"
#include "kernels/gpu.cuh"

namespace sdcore::attention_kernels {
namespace {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kNothing = -INFINITY;

constexpr int kPanel = 64;  // channels of a row of 128 bytes

// A block has `rows` times 64 queries of a head of up to `head` numbers, of whose values it has
// `values`, and goes over the keys in turns of `keys`; `blocks` share a multiprocessor. Tuning
// points: which there are.
template <class E, int head, int values, int rows, int keys, int stages, int blocks>
struct GroupShape {
  static_assert(stages >= 2, "a turn's values are there a step after its keys");
  static_assert(keys % 16 == 0 && values % 8 == 0, "wgmma's steps");
  using Element = E;
  static constexpr int kHead = (head + 15) / 16 * 16, kValues = values, kKeys = keys;
  static constexpr int kQueries = 64 * rows, kThreads = 128 * rows;
  static constexpr int kStages = stages, kBlocks = blocks;
  // Tiles are panels one after another, each all rows of 64 channels.
  static constexpr int kHeadPanels = (kHead + kPanel - 1) / kPanel;
  static constexpr int kValuePanels = (values + kPanel - 1) / kPanel;
  static constexpr int kQueryTile = kHeadPanels * kQueries * kPanel;
  static constexpr int kKeyTile = kHeadPanels * keys * kPanel;
  static constexpr int kValueTile = kValuePanels * keys * kPanel;
  static constexpr int kStage = kKeyTile + kValueTile;
  static constexpr size_t kTiles = sizeof(E) * (kQueryTile + stages * kStage);
  static constexpr size_t kShared = kTiles + 2 * stages * sizeof(gpu::Barrier) + gpu::kSwizzleBytes;
  static constexpr int kOutPitch = values + 8;
  static_assert(kQueries * kOutPitch <= kQueryTile + stages * kStage, "results take their place");
};

// What a block computes.
template <class S>
struct Part {
  int head, image, first_query, first_value;
  int turns;  // until none of its queries sees further keys

  __device__ explicit Part(const AttentionArgs& args)
      : head(static_cast<int>(blockIdx.y) % args.heads),
        image(static_cast<int>(blockIdx.y) / args.heads),
        first_query(static_cast<int>(blockIdx.x) * S::kQueries),
        first_value(static_cast<int>(blockIdx.z) * S::kValues) {
    const int all = static_cast<int>(args.k.w), last = first_query + S::kQueries;
    turns = ((args.causal && last < all ? last : all) + S::kKeys - 1) / S::kKeys;
  }
};

// A step is a turn's keys and the values of the turn before. It has a stage of shared memory; how
// often that was filled decides which of its barriers' phases to wait for.
template <class S>
struct StepAt {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance() {
    if (++stage < S::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// What shared memory holds.
template <class S>
struct Stages {
  using E = typename S::Element;
  E* queries;
  gpu::Barrier *full, *empty;

  __device__ Stages() {
    std::byte* memory = gpu::aligned_shared_memory();
    queries = reinterpret_cast<E*>(memory);
    full = reinterpret_cast<gpu::Barrier*>(memory + S::kTiles);
    empty = full + S::kStages;
  }
  __device__ void init() const {
    for (int i = 0; i < S::kStages; ++i) {
      gpu::init_barrier(&full[i], 1);
      gpu::init_barrier(&empty[i], S::kThreads / 32);
    }
    gpu::publish_barriers();
  }
  __device__ E* keys(int stage) const { return queries + S::kQueryTile + stage * S::kStage; }
  __device__ E* values(int stage) const { return keys(stage) + S::kKeyTile; }
};

struct HeadMaps {
  gpu::TensorMap q, k, v;
};

// Has one step after the other copied; of one thread.
template <class S>
class Copier {
 public:
  using E = typename S::Element;
  __device__ Copier(const HeadMaps& maps, const Part<S>& part) : maps_(maps), part_(part) {}

  // The next step, if there is one, when everyone has read what was in its place; the first brings
  // the queries too.
  __device__ void copy(const Stages<S>& stages) {
    if (step_ > part_.turns) return;
    gpu::Barrier* full = &stages.full[at_.stage];
    const bool is_first = step_ == 0, is_last = step_ == part_.turns;
    const int numbers = (is_first ? S::kQueryTile : S::kValueTile) + (is_last ? 0 : S::kKeyTile);
    gpu::await_barrier(&stages.empty[at_.stage], at_.parity ^ 1);  // at once when it is new
    gpu::arrive_expecting(full, static_cast<uint32_t>(numbers * sizeof(E)));
    if (is_first) {
      copy_rows<S::kHeadPanels, S::kQueries>(stages.queries, &maps_.q, 0, part_.first_query, full);
    } else {
      copy_rows<S::kValuePanels, S::kKeys>(stages.values(at_.stage), &maps_.v, part_.first_value,
                                           (step_ - 1) * S::kKeys, full);
    }
    if (!is_last) {
      copy_rows<S::kHeadPanels, S::kKeys>(stages.keys(at_.stage), &maps_.k, 0, step_ * S::kKeys,
                                          full);
    }
    ++step_;
    at_.advance();
  }

 private:
  template <int panels, int rows>
  __device__ void copy_rows(E* to, const gpu::TensorMap* map, int channel, int first,
                            gpu::Barrier* full) const {
    for (int i = 0; i < panels; ++i) {
      gpu::copy_box(to + i * rows * kPanel, map, channel + i * kPanel, part_.head, first,
                    part_.image, full);
    }
  }

  const HeadMaps& maps_;
  const Part<S>& part_;
  int step_ = 0;
  StepAt<S> at_;
};

// How many keys a thread's two queries see, `lane / 4` of its warp's 16 and eight below, and how
// many all queries of the block do.
struct Seen {
  int own[2], all;

  template <class S>
  __device__ Seen(const AttentionArgs& args, const Part<S>& part) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int query = part.first_query + warp * 16 + lane / 4, keys = static_cast<int>(args.k.w);
    const auto of = [&](int q) { return args.causal && q + 1 < keys ? q + 1 : keys; };
    own[0] = of(query);
    own[1] = of(query + 8);
    all = of(part.first_query);
  }
};

// What a thread knows of its two queries. The highest score is scaled as weights are, and the total
// is of this thread's columns.
struct RowState {
  float most[2] = {kNothing, kNothing}, total[2] = {};
};

// Scores of keys from `first` on become nothing where a query does not see them.
template <int keys>
__device__ __forceinline__ void hide(float (&scores)[keys / 2], int first, const int (&seen)[2]) {
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
  SDCORE_UNROLL
  for (int i = 0; i < keys / 2; ++i) {
    if (column + i / 4 * 8 + i % 2 >= seen[i / 2 % 2]) scores[i] = kNothing;
  }
}

// The highest score of one of a thread's two queries.
template <int keys>
__device__ __forceinline__ float highest_of(const float (&scores)[keys / 2], int row) {
  float highest[2] = {scores[2 * row], scores[2 * row + 1]};
  SDCORE_UNROLL
  for (int j = 1; j < keys / 8; ++j) {
    highest[0] = fmaxf(highest[0], scores[4 * j + 2 * row]);
    highest[1] = fmaxf(highest[1], scores[4 * j + 2 * row + 1]);
  }
  // The four threads of a query are neighbours.
  float most = fmaxf(highest[0], highest[1]);
  most = fmaxf(most, gpu::shuffle_xor(most, 1));
  return fmaxf(most, gpu::shuffle_xor(most, 2));
}

// Scores become weights, times 2^most; what was summed up before is to shrink.
template <int keys>
__device__ __forceinline__ void weigh(float (&scores)[keys / 2], RowState& state, float scale,
                                      float (&shrink)[2]) {
  SDCORE_UNROLL
  for (int row = 0; row < 2; ++row) {
    // Every query sees the first turn's first key, so that this is a number.
    const float most = fmaxf(state.most[row], highest_of<keys>(scores, row) * scale);
    shrink[row] = gpu::fast_exp2(state.most[row] - most);
    state.most[row] = most;
    float sum[2] = {};
    SDCORE_UNROLL
    for (int j = 0; j < keys / 8; ++j) {
      SDCORE_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& score = scores[4 * j + 2 * row + i];
        score = gpu::fast_exp2(score * scale - most);
        sum[i] += score;
      }
    }
    state.total[row] = state.total[row] * shrink[row] + (sum[0] + sum[1]);
  }
}

// A warpgroup's 64 queries on their way through the keys. What a thread has of scores, weights and
// sums stays in registers.
template <class S>
class Attender {
 public:
  using E = typename S::Element;
  __device__ __forceinline__ Attender(const Stages<S>& stages, const Part<S>& part,
                                      const AttentionArgs& args)
      : stages_(stages), turns_(part.turns), seen_(args, part), scale_(args.scale * kLog2e) {}

  __device__ __forceinline__ void attend(Copier<S>& copier) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < S::kStages; ++i) copier.copy(stages_);
    }
    gpu::wait_for_warp();
    begin_step();
    start_scores();
    gpu::await_products<0>();
    weigh_turn(0);
    for (int turn = 1; turn < turns_; ++turn) {
      end_step();
      begin_step();
      start_scores();
      start_values();
      // Into the last turn's place, which other warpgroups may still read: this one has been given
      // something to do before it waits for them.
      if (threadIdx.x == 0) copier.copy(stages_);
      gpu::wait_for_warp();
      gpu::await_products<1>();
      weigh_turn(turn);
    }
    end_step();
    begin_step();
    start_values();
    gpu::await_products<0>();
    gpu::hold(sums_);
  }

  // The weighted means of this thread's two queries, to the block's tile.
  __device__ __forceinline__ void keep(E* tile) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    SDCORE_UNROLL
    for (int row = 0; row < 2; ++row) {
      float total = state_.total[row];
      total += gpu::shuffle_xor(total, 1);
      total += gpu::shuffle_xor(total, 2);
      const float inverse = 1.0f / total;
      E* own = tile + (warp * 16 + lane / 4 + 8 * row) * S::kOutPitch + lane % 4 * 2;
      SDCORE_UNROLL
      for (int j = 0; j < S::kValues / 8; ++j) {
        const int i = 4 * j + 2 * row;
        *reinterpret_cast<uint32_t*>(own + j * 8) =
            gpu::pack<E>(sums_[i] * inverse, sums_[i + 1] * inverse);
      }
    }
  }

 private:
  __device__ __forceinline__ void begin_step() {
    gpu::await_barrier(&stages_.full[at_.stage], at_.parity);
    gpu::begin_products();
  }

  __device__ __forceinline__ void start_scores() {
    // Where the queries are is found anew in every turn: kept, it takes registers for each part.
    const int group = gpu::uniform(static_cast<int>(threadIdx.x) / 128);
    const uint64_t queries = gpu::tile_at(stages_.queries + group * 64 * kPanel);
    const uint64_t keys = gpu::tile_at(stages_.keys(at_.stage));
    SDCORE_UNROLL
    for (int c = 0; c < S::kHead; c += 16) {
      const auto bytes_to = [&](int rows) {
        return static_cast<uint32_t>((c / kPanel * rows * kPanel + c % kPanel) * 2);
      };
      const uint64_t a = gpu::tile_after(queries, bytes_to(S::kQueries));
      const uint64_t b = gpu::tile_after(keys, bytes_to(S::kKeys));
      if (c == 0) {
        gpu::multiply_first<E, S::kKeys>(scores_, a, b);
      } else {
        gpu::multiply<E, S::kKeys>(scores_, a, b);
      }
    }
    gpu::commit_products();
  }

  __device__ __forceinline__ void weigh_turn(int turn) {
    gpu::hold(scores_);
    const int first = turn * S::kKeys;
    if (first + S::kKeys > seen_.all) hide<S::kKeys>(scores_, first, seen_.own);
    weigh<S::kKeys>(scores_, state_, scale_, shrink_);
  }

  // When the last turn's values have been added up, too, its weights are next. Before the loop's
  // end a compiler would move this wait before the computation of the weights, and nothing
  // overlapped.
  __device__ __forceinline__ void end_step() {
    gpu::await_products<0>();
    gpu::hold(sums_);
    if (threadIdx.x % 32 == 0) gpu::arrive(&stages_.empty[at_.stage]);
    at_.advance();
    SDCORE_UNROLL
    for (int i = 0; i < S::kKeys / 4; ++i) {
      // Two eights of columns of sums lie as one left operand of 16 does.
      weights_[i / 4][i % 4] = gpu::pack<E>(scores_[2 * i], scores_[2 * i + 1]);
    }
    SDCORE_UNROLL
    for (int i = 0; i < S::kValues / 2; ++i) sums_[i] *= shrink_[i / 2 % 2];
    // Here, and not beside the next scores: registers would not suffice.
    SDCORE_UNROLL
    for (int k = 0; k < S::kKeys / 16; ++k) gpu::hold(weights_[k]);
    gpu::hold(sums_);
  }

  __device__ __forceinline__ void start_values() {
    const uint64_t values = gpu::tile_at(stages_.values(at_.stage), S::kKeys * kPanel * 2);
    SDCORE_UNROLL
    for (int k = 0; k < S::kKeys / 16; ++k) {
      const auto rows = static_cast<uint32_t>(k * 16 * kPanel * 2);
      gpu::multiply_rows<E, S::kValues>(sums_, weights_[k], gpu::tile_after(values, rows));
    }
    gpu::commit_products();
  }

  const Stages<S>& stages_;
  const int turns_;
  const Seen seen_;
  const float scale_;
  StepAt<S> at_;
  RowState state_;
  float scores_[S::kKeys / 2], shrink_[2], sums_[S::kValues / 2] = {};
  uint32_t weights_[S::kKeys / 16][4];
};

// The tile's rows to where they belong, in whole vectors.
template <class S>
__device__ __forceinline__ void write_rows(const typename S::Element* tile, const View& out,
                                           const Part<S>& part, int head_size) {
  constexpr int kEach = S::kValues / kVector;
  auto* data = static_cast<typename S::Element*>(out.data) + part.image * out.stride_n +
               static_cast<int64_t>(part.head) * head_size + part.first_value;
  for (int i = static_cast<int>(threadIdx.x); i < S::kQueries * kEach; i += S::kThreads) {
    const int row = i / kEach, c = i % kEach * kVector, query = part.first_query + row;
    if (query >= out.w || part.first_value + c >= head_size) continue;
    *reinterpret_cast<Words*>(data + query * out.stride_w + c) =
        *reinterpret_cast<const Words*>(tile + row * S::kOutPitch + c);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    group_kernel(const __grid_constant__ HeadMaps maps, AttentionArgs args, int head_size) {
  if constexpr (gpu::kHasWarpgroups) {
    const Stages<S> stages;
    const Part<S> part(args);
    if (threadIdx.x == 0) {
      gpu::prefetch(&maps.q);
      gpu::prefetch(&maps.k);
      gpu::prefetch(&maps.v);
      stages.init();
    }
    gpu::wait_for_block();

    Copier<S> copier(maps, part);
    Attender<S> attender(stages, part, args);
    attender.attend(copier);
    gpu::wait_for_block();  // nobody reads the stages any more: the results take their place
    attender.keep(stages.queries);
    gpu::wait_for_block();
    write_rows<S>(stages.queries, args.out, part, head_size);
  }
}

// The heads of a view, of which boxes of rows of one panel are copied.
inline gpu::TensorMap map_of(const View& view, int heads, int head_size, int rows) {
  const auto u = [](int64_t x) { return static_cast<uint64_t>(x); };
  return gpu::tensor_map({view.data,
                          {u(head_size), u(heads), u(view.w), u(view.n)},
                          {u(head_size * 2), u(view.stride_w * 2), u(view.stride_n * 2)},
                          {kPanel, 1, static_cast<uint32_t>(rows), 1},
                          {1, 1, 1, 1}},
                         view.dtype);
}

template <class S>
void launch_groups(const AttentionArgs& args, int head_size, gpu::Device& device) {
  const gpu::dim3 grid(static_cast<uint32_t>(blocks_of(args.q.w, S::kQueries)),
                       static_cast<uint32_t>(args.q.n * args.heads),
                       static_cast<uint32_t>(blocks_of(head_size, S::kValues)));
  const HeadMaps maps = {map_of(args.q, args.heads, head_size, S::kQueries),
                         map_of(args.k, args.heads, head_size, S::kKeys),
                         map_of(args.v, args.heads, head_size, S::kKeys)};
  launch(device, group_kernel<S>, grid, S::kThreads, S::kShared, maps, args, head_size);
}

// Whether warpgroups can do this: nothing is added to scores, rows are whole vectors, and the copy
// engine takes what it is to read.
inline bool suits_groups(const AttentionArgs& args, int head_size, const gpu::Device& device) {
  const auto is_copied = [](const View& v) {
    return is_vectorized(v) && v.stride_w > 0 && v.stride_n > 0;
  };
  return device.architecture() == 90 && args.relative.c == 0 && args.mask.c == 0 &&
         head_size % kVector == 0 && is_copied(args.q) && is_copied(args.k) && is_copied(args.v) &&
         is_vectorized(args.out) && args.out.dtype == args.q.dtype;
}

// The keys of a turn, on which results depend, by the sizes of one image alone: a batch must not
// change a picture. Few keys, like those of a prompt, are one turn of small blocks. Else an H100's
// 132 multiprocessors are to be filled by two images: of SD 1.5's large heads each block has half
// of the values, and of a VAE's one head of 512, and computes the scores for itself.
template <class E>
void attend_by_groups(const AttentionArgs& args, int head_size, gpu::Device& device) {
  const auto run = [&](auto shape) { launch_groups<decltype(shape)>(args, head_size, device); };
  if (args.k.w <= 80) {
    if (head_size <= 40) return run(GroupShape<E, 40, 40, 1, 80, 2, 4>{});
    if (head_size <= 64) return run(GroupShape<E, 64, 64, 1, 80, 2, 4>{});
    if (head_size <= 80) return run(GroupShape<E, 80, 80, 1, 80, 2, 2>{});
    if (head_size <= 160) return run(GroupShape<E, 160, 80, 1, 80, 2, 1>{});
  }
  if (head_size <= 40) return run(GroupShape<E, 40, 40, 2, 96, 3, 2>{});
  if (head_size <= 64) return run(GroupShape<E, 64, 64, 2, 80, 4, 2>{});
  if (head_size <= 80) return run(GroupShape<E, 80, 80, 2, 96, 3, 1>{});
  if (head_size <= 128) return run(GroupShape<E, 128, 128, 2, 128, 3, 1>{});
  if (head_size <= 160) return run(GroupShape<E, 160, 80, 1, 64, 4, 1>{});
  run(GroupShape<E, 512, 256, 1, 48, 2, 1>{});
}

}  // namespace
}  // namespace sdcore::attention_kernels
