// Flash attention (Dao 2023): a block takes some queries of a head and walks over the keys with a
// running softmax. In bf16 and f16 by tensor cores, a warp having 16 queries; in f32 plainly, a
// warp having one.
#pragma once

#include "kernels/attention/gpu_warpgroups.cuh"

namespace sdcore::attention_kernels {
namespace {

// What is added to the score of a query and a key, or nothing at all where the key is not seen.
__device__ __forceinline__ float biased(const AttentionArgs& args, int64_t image, int head,
                                        int query, int key, float score) {
  if (key >= args.k.w || (args.causal && key > query)) return kNothing;
  if (args.relative.c) {
    const int64_t row = query - key + args.k.w - 1;
    score +=
        load<1>(args.relative.data, args.relative.dtype, row * args.relative.stride_w + head).v[0];
  }
  if (args.mask.c) {
    score += load<1>(args.mask.data, args.mask.dtype, image * args.mask.stride_n + key).v[0];
  }
  return score;
}

// Heads of up to `head` numbers, of whose values a block takes `values`: of large heads the scores
// are computed once for each part. Tuning points: keys a turn, and whether the next keys are
// fetched meanwhile.
template <class E, int head, int values, int keys, int stages>
struct Shape {
  using Element = E;
  static constexpr int kHead = head, kValues = values, kKeys = keys, kStages = stages;
  static constexpr int kQueries = 64, kThreads = 128;
  // From one row to the next in shared memory: the rows of a fragment lie in different banks.
  static constexpr int kPitch = head + 8, kValuePitch = values + 8;
  static constexpr int kStage = keys * (kPitch + kValuePitch);
  static constexpr size_t kShared = (kQueries * kPitch + stages * kStage) * sizeof(E);
};

// Rows [first, first + count) of a head, channels [channel, channel + width) of it, zeros where
// there are none.
template <int count, int width, int pitch, int threads, class E>
__device__ __forceinline__ void fetch(const View& v, int64_t image, int64_t head_at, int head_size,
                                      int first, int channel, bool whole_vectors, E* to) {
  const auto* from = static_cast<const E*>(v.data) + image * v.stride_n + head_at;
  for (int i = static_cast<int>(threadIdx.x); i < count * (width / kVector); i += threads) {
    const int row = first + i / (width / kVector), c = i % (width / kVector) * kVector;
    E* place = to + i / (width / kVector) * pitch + c;
    const int left = row < v.w ? head_size - channel - c : 0;
    const E* at = from + (left > 0 ? row * v.stride_w + channel + c : 0);
    if (whole_vectors) {
      gpu::copy_async(place, at, left > 0);
    } else {
      for (int k = 0; k < kVector; ++k) place[k] = k < left ? at[k] : E{0};
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads)
    flash_kernel(AttentionArgs args, int head_size, bool whole_vectors) {
  using E = typename S::Element;
  constexpr int kScores = S::kKeys / 8, kOut = S::kValues / 8;
  auto* queries = reinterpret_cast<E*>(gpu::shared_memory());
  E* stages = queries + S::kQueries * S::kPitch;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int head = static_cast<int>(blockIdx.y) % args.heads;
  const int64_t image = blockIdx.y / static_cast<uint32_t>(args.heads);
  const int64_t head_at = static_cast<int64_t>(head) * head_size;
  const int first_query = static_cast<int>(blockIdx.x) * S::kQueries;
  const int first_value = static_cast<int>(blockIdx.z) * S::kValues;

  int tiles = static_cast<int>((args.k.w + S::kKeys - 1) / S::kKeys);
  if (args.causal) {
    const int seen = (first_query + S::kQueries + S::kKeys - 1) / S::kKeys;
    tiles = seen < tiles ? seen : tiles;
  }
  const auto fetch_keys = [&](int tile) {
    E* to = stages + tile % S::kStages * S::kStage;
    fetch<S::kKeys, S::kHead, S::kPitch, S::kThreads>(args.k, image, head_at, head_size,
                                                      tile * S::kKeys, 0, whole_vectors, to);
    fetch<S::kKeys, S::kValues, S::kValuePitch, S::kThreads>(
        args.v, image, head_at, head_size, tile * S::kKeys, first_value, whole_vectors,
        to + S::kKeys * S::kPitch);
    gpu::commit_copies();
  };
  fetch<S::kQueries, S::kHead, S::kPitch, S::kThreads>(args.q, image, head_at, head_size,
                                                       first_query, 0, whole_vectors, queries);
  fetch_keys(0);

  // Of the two rows that a thread has a part of: `lane / 4` of the warp's, and eight below.
  float out[kOut][4] = {}, most[2] = {kNothing, kNothing}, total[2] = {};
  const int query = first_query + warp * 16 + lane / 4;
  for (int tile = 0; tile < tiles; ++tile) {
    if (S::kStages > 1 && tile + 1 < tiles) {
      fetch_keys(tile + 1);
      gpu::await_copies<1>();
    } else {
      gpu::await_copies<0>();
    }
    gpu::wait_for_block();
    const E* keys = stages + tile % S::kStages * S::kStage;
    const E* values = keys + S::kKeys * S::kPitch;

    float scores[kScores][4] = {};
    for (int c = 0; c < S::kHead; c += 16) {
      uint32_t a[4];
      gpu::load_matrices(a, queries + (warp * 16 + lane % 16) * S::kPitch + c + lane / 16 * 8);
      SDCORE_UNROLL
      for (int j = 0; j < kScores; j += 2) {
        uint32_t pair[4];
        gpu::load_matrices(
            pair, keys + (j * 8 + lane / 16 * 8 + lane % 8) * S::kPitch + c + lane / 8 % 2 * 8);
        gpu::mma<E>(scores[j], a, {pair[0], pair[1]});
        gpu::mma<E>(scores[j + 1], a, {pair[2], pair[3]});
      }
    }

    const bool plain = !args.causal && args.relative.c == 0 && args.mask.c == 0 &&
                       (tile + 1) * S::kKeys <= args.k.w;
    SDCORE_UNROLL
    for (int row = 0; row < 2; ++row) {
      float highest = most[row];
      SDCORE_UNROLL
      for (int j = 0; j < kScores; ++j) {
        SDCORE_UNROLL
        for (int i = 2 * row; i < 2 * row + 2; ++i) {
          const int key = tile * S::kKeys + j * 8 + lane % 4 * 2 + i % 2;
          const float score = scores[j][i] * args.scale;
          scores[j][i] =
              kLog2e * (plain ? score : biased(args, image, head, query + 8 * row, key, score));
          highest = fmaxf(highest, scores[j][i]);
        }
      }
      // The four threads of a row are neighbours.
      highest = fmaxf(highest, gpu::shuffle_xor(highest, 1));
      highest = fmaxf(highest, gpu::shuffle_xor(highest, 2));
      const float base = highest == kNothing ? 0.0f : highest;
      const float shrink = exp2f(most[row] - base);
      float sum = 0.0f;
      SDCORE_UNROLL
      for (int j = 0; j < kScores; ++j) {
        SDCORE_UNROLL
        for (int i = 2 * row; i < 2 * row + 2; ++i) {
          scores[j][i] = exp2f(scores[j][i] - base);
          sum += scores[j][i];
        }
      }
      most[row] = highest;
      total[row] = total[row] * shrink + sum;
      SDCORE_UNROLL
      for (int j = 0; j < kOut; ++j) {
        out[j][2 * row] *= shrink;
        out[j][2 * row + 1] *= shrink;
      }
    }

    // Sums of two products of 8 columns lie as one left operand of 16 does.
    SDCORE_UNROLL
    for (int k = 0; k < S::kKeys / 16; ++k) {
      const float(&left)[4] = scores[2 * k], (&right)[4] = scores[2 * k + 1];
      const uint32_t a[4] = {gpu::pack<E>(left[0], left[1]), gpu::pack<E>(left[2], left[3]),
                             gpu::pack<E>(right[0], right[1]), gpu::pack<E>(right[2], right[3])};
      SDCORE_UNROLL
      for (int j = 0; j < kOut; j += 2) {
        uint32_t pair[4];
        gpu::load_matrices_transposed(
            pair, values + (k * 16 + lane % 16) * S::kValuePitch + j * 8 + lane / 16 * 8);
        gpu::mma<E>(out[j], a, {pair[0], pair[1]});
        gpu::mma<E>(out[j + 1], a, {pair[2], pair[3]});
      }
    }
    gpu::wait_for_block();  // before these keys are overwritten
    if (S::kStages == 1 && tile + 1 < tiles) fetch_keys(tile + 1);
  }

  SDCORE_UNROLL
  for (int row = 0; row < 2; ++row) {
    total[row] += gpu::shuffle_xor(total[row], 1);
    total[row] += gpu::shuffle_xor(total[row], 2);
    if (query + 8 * row >= args.q.w) continue;
    const float inverse = 1.0f / total[row];
    const int64_t at = image * args.out.stride_n + (query + 8 * row) * args.out.stride_w + head_at;
    SDCORE_UNROLL
    for (int j = 0; j < kOut; ++j) {
      SDCORE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int c = first_value + j * 8 + lane % 4 * 2 + i;
        if (c < head_size) {
          store<1>(args.out.data, args.out.dtype, at + c, {{out[j][2 * row + i] * inverse}});
        }
      }
    }
  }
}

template <class S>
void launch_flash(const AttentionArgs& args, int head_size, gpu::Device& device) {
  const bool whole = is_vectorized(args.q) && is_vectorized(args.k) && is_vectorized(args.v) &&
                     head_size % kVector == 0;
  const gpu::dim3 grid(static_cast<uint32_t>(blocks_of(args.q.w, S::kQueries)),
                       static_cast<uint32_t>(args.q.n * args.heads),
                       static_cast<uint32_t>(blocks_of(head_size, S::kValues)));
  launch(device, flash_kernel<S>, grid, S::kThreads, S::kShared, args, head_size, whole);
}

template <class E>
void attend_by_warps(const AttentionArgs& args, int head_size, gpu::Device& device) {
  if (head_size <= 48) return launch_flash<Shape<E, 48, 48, 64, 2>>(args, head_size, device);
  if (head_size <= 64) return launch_flash<Shape<E, 64, 64, 64, 2>>(args, head_size, device);
  if (head_size <= 80) return launch_flash<Shape<E, 80, 80, 64, 2>>(args, head_size, device);
  if (head_size <= 128) return launch_flash<Shape<E, 128, 128, 32, 2>>(args, head_size, device);
  if (head_size <= 160) return launch_flash<Shape<E, 160, 160, 32, 2>>(args, head_size, device);
  launch_flash<Shape<E, 512, 128, 16, 1>>(args, head_size, device);
}

template <class E>
void attend_halves(const AttentionArgs& args, int head_size, gpu::Device& device) {
  if (suits_groups(args, head_size, device)) return attend_by_groups<E>(args, head_size, device);
  attend_by_warps<E>(args, head_size, device);
}

// float32, for heads of up to kPlainHead numbers: in every turn a lane scores a key, and then adds
// up its own channels.
constexpr int kPlainThreads = 128, kPlainHead = 512;

__global__ void __launch_bounds__(kPlainThreads) plain_kernel(AttentionArgs args, int head_size) {
  auto* shared = reinterpret_cast<float*>(gpu::shared_memory());
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float* own = shared + warp * (head_size + 32);  // the query, then the weights of 32 keys
  float* weights = own + head_size;
  const int head = static_cast<int>(blockIdx.y) % args.heads;
  const int64_t image = blockIdx.y / static_cast<uint32_t>(args.heads);
  const int64_t head_at = static_cast<int64_t>(head) * head_size;
  const int query = static_cast<int>(blockIdx.x) * (kPlainThreads / 32) + warp;
  if (query >= args.q.w) return;  // a whole warp
  const auto row = [&](const View& v, int64_t at) {
    return static_cast<const float*>(v.data) + image * v.stride_n + at * v.stride_w + head_at;
  };
  for (int c = lane; c < head_size; c += 32) own[c] = row(args.q, query)[c];
  gpu::wait_for_warp();

  float out[kPlainHead / 32] = {}, most = kNothing, total = 0.0f;
  const int64_t seen = args.causal && query + 1 < args.k.w ? query + 1 : args.k.w;
  for (int first = 0; first < seen; first += 32) {
    const int key = first + lane;
    float score = kNothing;
    if (key < seen) {
      float dot = 0.0f;
      for (int c = 0; c < head_size; ++c) dot += own[c] * row(args.k, key)[c];
      score = biased(args, image, head, query, key, dot * args.scale);
    }
    float highest = fmaxf(most, score);
    for (int mask = 16; mask > 0; mask /= 2) {
      highest = fmaxf(highest, gpu::shuffle_xor(highest, mask));
    }
    const float shrink = expf(most - highest), weight = expf(score - highest);
    weights[lane] = weight;
    total = total * shrink + weight;
    most = highest;
    gpu::wait_for_warp();
    const int here = static_cast<int>(seen - first < 32 ? seen - first : 32);
    SDCORE_UNROLL
    for (int part = 0; part < kPlainHead / 32; ++part) {
      const int c = part * 32 + lane;
      if (c >= head_size) break;
      float sum = out[part] * shrink;
      for (int k = 0; k < here; ++k) sum += weights[k] * row(args.v, first + k)[c];
      out[part] = sum;
    }
    gpu::wait_for_warp();
  }
  for (int mask = 16; mask > 0; mask /= 2) total += gpu::shuffle_xor(total, mask);
  SDCORE_UNROLL
  for (int part = 0; part < kPlainHead / 32; ++part) {
    const int c = part * 32 + lane;
    if (c >= head_size) break;
    const int64_t at = image * args.out.stride_n + query * args.out.stride_w + head_at + c;
    store<1>(args.out.data, args.out.dtype, at, {{out[part] / total}});
  }
}

void attention(const AttentionArgs& args, gpu::Device& device) {
  const int head_size = static_cast<int>(args.q.c / args.heads);
  require(head_size <= kPlainHead && args.q.n * args.heads <= 65535, ErrorKind::invalid_argument,
          "[attention] on a GPU heads have at most ", kPlainHead,
          " numbers, and there are at most 65535 in a batch, got ", head_size, " and ",
          args.q.n * args.heads);
  if (args.q.dtype == DType::f32) {
    const gpu::dim3 grid(static_cast<uint32_t>(blocks_of(args.q.w, kPlainThreads / 32)),
                         static_cast<uint32_t>(args.q.n * args.heads));
    const size_t shared = kPlainThreads / 32 * static_cast<size_t>(head_size + 32) * sizeof(float);
    return launch(device, plain_kernel, grid, kPlainThreads, shared, args, head_size);
  }
  with_half(args.q.dtype,
            [&](auto element) { attend_halves<decltype(element)>(args, head_size, device); });
}

constexpr GpuKernel kGpuKernel = {gpu::kBackend, attention};

}  // namespace
}  // namespace sdcore::attention_kernels
