// Group norms. Where all pixels of some groups find room in a block's shared memory, one kernel
// reads and writes them. Larger images are read twice: blocks sum chunks of them, then others
// merge these sums and write. Sums are of distances from a group's mean over a few pixels, so that
// they stay small where the mean is large.
#pragma once

#include "kernels/norm/gpu_group_cut.cuh"
#include "kernels/norm/gpu_group_plain.cuh"

namespace sdcore::norm {
namespace {

// Tuning points, as those of the cut.
constexpr int64_t kWholeBytes = 48 * 1024;  // of a slice that one block keeps, at most
constexpr int64_t kWriters = 528;           // blocks that write tiles, of all images together
// Blocks of tiles that a multiprocessor's registers are to hold: they hide each other's reads.
template <class T>
constexpr int kBlocks = sizeof(T) == 4 ? 1 : 4;

// What a thread takes: a vector of channels of every so many-th pixel. The vector's first `split`
// channels are of one group of the slice, the others of the next one.
struct Seat {
  int row, channel, low, high, split, slot;
  bool active;

  __device__ Seat(const Cut& cut, uint32_t slice) {
    const int thread = static_cast<int>(threadIdx.x);
    row = thread / cut.columns;
    active = row < cut.rows;
    const int column = thread - row * cut.columns, first = column * kVector;
    low = first / cut.channels;
    split = (low + 1) * cut.channels - first;
    high = split < kVector ? low + 1 : low;
    channel = static_cast<int>(slice) * cut.columns * kVector + first;
    // Turned by its column, so that the threads of a warp write to different banks.
    slot = 2 * column * cut.rows + (row + 4 * column) % cut.rows;
  }
  __device__ int group_of(int k) const { return k < split ? low : high; }
};

// A thread's vector of an image's pixel 0; all pixels are one row of memory.
template <class T>
__device__ __forceinline__ T* begin_of(const View& v, const Seat& seat) {
  return static_cast<T*>(v.data) + blockIdx.z * v.stride_n + seat.channel;
}
// Where the same vector of another pixel is, in numbers from there.
__device__ __forceinline__ int64_t offset_of(const View& v, int pixel) {
  return static_cast<int64_t>(pixel) * static_cast<int>(v.stride_w);
}

// A block's shared memory: for each group of its slice the mean of a few pixels, sums, and what
// they give; and room for sums that are under way.
struct Board {
  float *shift, *sums, *mean, *inverse, *parts, *scratch;

  __device__ Board(const Cut& cut, std::byte* memory) {
    shift = reinterpret_cast<float*>(memory);
    sums = shift + cut.groups;
    mean = sums + 2 * cut.groups;
    inverse = mean + cut.groups;
    parts = inverse + cut.groups;
    scratch = parts + 2 * (cut.groups > kWarps ? cut.groups : kWarps);
  }
  static size_t bytes(const Cut& cut) {
    const int groups = 5 * cut.groups + 2 * std::max(cut.groups, kWarps);
    return sizeof(float) * static_cast<size_t>(groups + 4 * cut.columns * cut.rows);
  }
};

// Each thread leaves two numbers of a kind, of its vector's two groups: those of a group are
// adjacent then.
template <int kinds>
__device__ __forceinline__ void leave_sums(const Cut& cut, const Seat& seat, const Board& board,
                                           const Values<kVector> (&of_channels)[kinds]) {
  const int size = 2 * cut.columns * cut.rows;
  if (!seat.active) return;
  SDCORE_UNROLL
  for (int kind = 0; kind < kinds; ++kind) {
    float low = 0.0f, high = 0.0f;
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) {
      low += k < seat.split ? of_channels[kind].v[k] : 0.0f;
      high += k < seat.split ? 0.0f : of_channels[kind].v[k];
    }
    board.scratch[kind * size + seat.slot] = low;
    board.scratch[kind * size + seat.slot + cut.rows] = high;
  }
}

// Some warps add a part each of what was left of a group.
template <int kinds>
__device__ __forceinline__ void add_parts(const Cut& cut, const Board& board, int warps_of_group) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int size = 2 * cut.columns * cut.rows, parts = cut.groups * warps_of_group;
  const auto begin = [&](int group) {
    const int channel = group * cut.channels;
    return (channel / kVector * 2 + (channel % kVector != 0 ? 1 : 0)) * cut.rows;
  };
  SDCORE_KEEP_LOOP
  for (int part = thread / 32; part < parts; part += kWarps) {
    const int group = part / warps_of_group, end = begin(group + 1);
    float total[kinds] = {};
    SDCORE_KEEP_LOOP
    for (int i = begin(group) + part % warps_of_group * 32 + lane; i < end;
         i += warps_of_group * 32) {
      SDCORE_UNROLL
      for (int kind = 0; kind < kinds; ++kind) total[kind] += board.scratch[kind * size + i];
    }
    SDCORE_UNROLL
    for (int kind = 0; kind < kinds; ++kind) {
      total[kind] = sum_of_warp(total[kind]);
      if (lane == 0) board.parts[kind * parts + part] = total[kind];
    }
  }
}

// The sums over the block of what threads have of each group: kinds x groups of them, times
// `factor`, in the same order always.
template <int kinds>
__device__ __forceinline__ void sum_groups(const Cut& cut, const Seat& seat, const Board& board,
                                           const Values<kVector> (&of_channels)[kinds],
                                           float factor, float* sums) {
  const int warps_of_group = cut.groups < kWarps ? kWarps / cut.groups : 1;
  leave_sums(cut, seat, board, of_channels);
  gpu::wait_for_block();
  add_parts<kinds>(cut, board, warps_of_group);
  gpu::wait_for_block();
  SDCORE_KEEP_LOOP
  for (int i = static_cast<int>(threadIdx.x); i < kinds * cut.groups; i += kThreads) {
    float total = 0.0f;
    SDCORE_KEEP_LOOP
    for (int part = 0; part < warps_of_group; ++part) {
      total += board.parts[i * warps_of_group + part];
    }
    sums[i] = total * factor;
  }
  gpu::wait_for_block();
}

// Sums of a thread's channels' distances from their groups' shifts, and of the distances' squares.
struct Sums {
  Values<kVector> shift, sums[2] = {};

  // Sets the shifts to groups' means over what the block's threads first read, so many pixels.
  __device__ Sums(const Cut& cut, const Seat& seat, const Board& board,
                  const Values<kVector>& first, int pixels) {
    const Values<kVector> values[1] = {first};
    const float factor = 1.0f / static_cast<float>(pixels * cut.channels);
    sum_groups(cut, seat, board, values, factor, board.shift);
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) shift.v[k] = board.shift[seat.group_of(k)];
  }
  __device__ void add(const Values<kVector>& x) {
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) {
      const float distance = x.v[k] - shift.v[k];
      sums[0].v[k] += distance;
      sums[1].v[k] += distance * distance;
    }
  }
};

// From the board's sums over so many pixels.
__device__ __forceinline__ Moments moments_from(const Cut& cut, const Board& board, int group,
                                                int pixels) {
  const float count = static_cast<float>(pixels) * static_cast<float>(cut.channels);
  const float sum = board.sums[group], distance = sum / count;
  return {board.shift[group] + distance,
          fmaxf(board.sums[cut.groups + group] - sum * distance, 0.0f)};
}

// What is done to a thread's channels.
struct Affine {
  Values<kVector> mean, scale, bias;

  __device__ Affine(const GroupNormArgs& args, const Seat& seat, const Board& board) {
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) {
      scale.v[k] = 1.0f;
      bias.v[k] = 0.0f;
    }
    if (args.weight && seat.active) scale = load<kVector>(args.weight + seat.channel);
    if (args.bias && seat.active) bias = load<kVector>(args.bias + seat.channel);
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) {
      mean.v[k] = board.mean[seat.group_of(k)];
      scale.v[k] *= board.inverse[seat.group_of(k)];
    }
  }
  template <class T, Activation activation>
  __device__ Packed<T> apply(const Packed<T>& from) const {
    auto x = unpack(from);
    SDCORE_UNROLL
    for (int k = 0; k < kVector; ++k) x.v[k] = (x.v[k] - mean.v[k]) * scale.v[k] + bias.v[k];
    if constexpr (activation == Activation::silu && sizeof(T) == 2) {
      SDCORE_UNROLL
      for (int k = 0; k < kVector; ++k) x.v[k] *= gpu::sigmoid(x.v[k]);
    } else {
      activate(activation, x);
    }
    return packed<T>(x);
  }
};

// A thread's vectors of a tile.
template <class T>
struct Tile {
  Packed<T> at[kLoads];

  __device__ void read(const Cut& cut, const Seat& seat, int tile, const View& in, const T* from) {
    for_each(cut, seat, tile,
             [&](int i, int pixel) { at[i] = fetch(from + offset_of(in, pixel)); });
  }
  // Calls body(i, pixel) for those that there are: the last tile may be short.
  template <class Body>
  __device__ static void for_each(const Cut& cut, const Seat& seat, int tile, Body body) {
    const int first = tile * cut.tile + seat.row;
    if (!seat.active) return;
    if ((tile + 1) * cut.tile <= cut.pixels) {
      SDCORE_UNROLL
      for (int i = 0; i < kLoads; ++i) body(i, first + i * cut.rows);
    } else {
      SDCORE_UNROLL
      for (int i = 0; i < kLoads; ++i) {
        if (first + i * cut.rows < cut.pixels) body(i, first + i * cut.rows);
      }
    }
  }
};

// The moments of a slice's groups over a chunk, from its last tile to its first.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    moments_kernel(View in, Cut cut, Moments* moments) {
  const Seat seat(cut, blockIdx.x);
  const Board board(cut, gpu::shared_memory());
  const T* from = begin_of<const T>(in, seat);
  const int chunk = static_cast<int>(blockIdx.y);
  int tile = chunk + (cut.each - (chunk < cut.longer ? 0 : 1)) * cut.chunks;
  Tile<T> x;
  x.at[0] = {};  // what has no first pixel adds nothing to the shifts
  x.read(cut, seat, tile, in, from);
  const int left = cut.pixels - tile * cut.tile, first = left < cut.rows ? left : cut.rows;
  Sums sums(cut, seat, board, unpack(x.at[0]), first);
  for (;;) {
    x.for_each(cut, seat, tile, [&](int i, int) { sums.add(unpack(x.at[i])); });
    tile -= cut.chunks;
    if (tile < 0) break;
    x.read(cut, seat, tile, in, from);
  }
  sum_groups(cut, seat, board, sums.sums, 1.0f, board.sums);
  SDCORE_KEEP_LOOP
  for (int group = static_cast<int>(threadIdx.x); group < cut.groups; group += kThreads) {
    moments_of(cut, moments, blockIdx.z, blockIdx.x, group)[chunk] =
        moments_from(cut, board, group, pixels_of(cut, chunk));
  }
}

// Writes every so many-th tile of a slice, from the first on.
template <class T, Activation activation>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    group_norm_kernel(GroupNormArgs args, Cut cut, Moments* moments) {
  const View &in = args.in, &out = args.out;
  const Seat seat(cut, blockIdx.x);
  const Board board(cut, gpu::shared_memory());
  const T* from = begin_of<const T>(in, seat);
  T* to = begin_of<T>(out, seat);
  int tile = static_cast<int>(blockIdx.y);
  Tile<T> x;
  x.read(cut, seat, tile, in, from);  // under way while moments are merged
  SDCORE_KEEP_LOOP
  for (int group = static_cast<int>(threadIdx.x / 32); group < cut.groups; group += kWarps) {
    const Moments m = mean_and_variance(args, cut, moments, group);
    if (threadIdx.x % 32 == 0) {
      board.mean[group] = m.mean;
      board.inverse[group] = inverse_deviation(m.squares, args.eps);
    }
  }
  gpu::wait_for_block();
  const Affine affine(args, seat, board);
  while (tile < cut.tiles) {
    x.for_each(cut, seat, tile, [&](int i, int pixel) {
      const auto y = affine.template apply<T, activation>(x.at[i]);
      *reinterpret_cast<Packed<T>*>(to + offset_of(out, pixel)) = y;
    });
    tile += static_cast<int>(gridDim.y);
    if (tile < cut.tiles) x.read(cut, seat, tile, in, from);
  }
}

// A thread's vectors of all pixels of a slice, in shared memory. It works on what it copied there
// itself, so that it need not wait for others.
template <class T>
struct Kept {
  static constexpr int kWords = sizeof(Packed<T>) / sizeof(Words);
  Words* words;
  int first, step, pixels;

  __device__ Kept(const Cut& cut, const Seat& seat)
      : words(reinterpret_cast<Words*>(gpu::shared_memory()) + threadIdx.x),
        first(seat.row),
        step(cut.rows),
        pixels(seat.active ? cut.pixels : 0) {}

  // Calls body(i, pixel).
  template <class Body>
  __device__ void for_each(Body body) const {
    for (int i = 0, pixel = first; pixel < pixels; ++i, pixel += step) body(i, pixel);
  }
  // Begins to; the first vector's copy can be awaited before the others.
  __device__ void copy(const View& in, const T* from) const {
    for_each([&](int i, int pixel) {
      const auto* source = reinterpret_cast<const Words*>(from + offset_of(in, pixel));
      SDCORE_UNROLL
      for (int j = 0; j < kWords; ++j) {
        gpu::copy_async(words + (i * kWords + j) * kThreads, source + j, true);
      }
      if (i == 0) gpu::commit_copies();
    });
    gpu::commit_copies();
  }
  __device__ bool has_any() const { return first < pixels; }
  __device__ Packed<T> at(int i) const {
    Packed<T> x;
    SDCORE_UNROLL
    for (int j = 0; j < kWords; ++j) x.words[j] = words[(i * kWords + j) * kThreads];
    return x;
  }
};

// All pixels of a slice.
template <class T, Activation activation>
__global__ void __launch_bounds__(kThreads) whole_group_norm_kernel(GroupNormArgs args, Cut cut) {
  const Seat seat(cut, blockIdx.x);
  const Kept<T> kept(cut, seat);
  const Board board(cut, gpu::shared_memory() + cut.turns * kThreads * sizeof(Packed<T>));
  kept.copy(args.in, begin_of<const T>(args.in, seat));
  gpu::await_copies<1>();
  const int first = cut.pixels < cut.rows ? cut.pixels : cut.rows;
  Sums sums(cut, seat, board, kept.has_any() ? unpack(kept.at(0)) : Values<kVector>{}, first);
  gpu::await_copies<0>();
  kept.for_each([&](int i, int) { sums.add(unpack(kept.at(i))); });
  sum_groups(cut, seat, board, sums.sums, 1.0f, board.sums);
  SDCORE_KEEP_LOOP
  for (int group = static_cast<int>(threadIdx.x); group < cut.groups; group += kThreads) {
    const Moments m = moments_from(cut, board, group, cut.pixels);
    const float count = static_cast<float>(cut.pixels) * static_cast<float>(cut.channels);
    board.mean[group] = m.mean;
    board.inverse[group] = inverse_deviation(m.squares / count, args.eps);
  }
  gpu::wait_for_block();
  const Affine affine(args, seat, board);
  T* to = begin_of<T>(args.out, seat);
  kept.for_each([&](int i, int pixel) {
    const auto y = affine.template apply<T, activation>(kept.at(i));
    *reinterpret_cast<Packed<T>*>(to + offset_of(args.out, pixel)) = y;
  });
}

// A warp a group, a block an image.
__global__ void __launch_bounds__(kThreads)
    store_moments_kernel(View out, int groups, Cut cut, Moments* all) {
  auto* to = static_cast<float*>(out.data) + blockIdx.x * out.stride_n;
  for (int group = static_cast<int>(threadIdx.x / 32); group < groups; group += kWarps) {
    const Moments m = merged(cut, moments_of(cut, all, blockIdx.x, 0, group));
    if (threadIdx.x % 32 != 0) continue;
    to[group] = m.mean;
    to[groups + group] = m.squares;
  }
}

// Whether these images are read in vectors, each a row of memory.
inline bool in_vectors(const View& in, int groups) {
  return in.h == 1 && is_vectorized(in) && smallest_slice(in, groups) > 0;
}

inline void require_size(const View& in) {
  constexpr int64_t kMostImages = 65535;  // of a grid in its third direction
  require(in.h * in.w * in.c < INT32_MAX && in.n <= kMostImages, ErrorKind::invalid_argument,
          "[group_norm] ", in.n, " images of ", in.h, " x ", in.w, " x ", in.c,
          " numbers are too many for one kernel");
}

// What either cut needs: whether memory is in vectors is not known yet, nor whether groups divide
// channels.
inline size_t workspace(const View& in, int groups) {
  require_size(in);
  if (groups < 1 || in.pixels() * in.c == 0 || in.c % groups != 0) return 0;
  int chunks = cut_into_groups(in, groups).chunks;
  if (smallest_slice(in, groups) > 0) {
    chunks = std::max(chunks, cut_into_tiles(in, groups).chunks);
  }
  return sizeof(Moments) * static_cast<size_t>(in.n * groups * chunks);
}

inline void run_moments(const View& in, const Cut& cut, Moments* moments, gpu::Device& device) {
  with_type(in.dtype, [&](auto type) {
    launch(device, moments_kernel<decltype(type)>, grid_of(cut, cut.chunks, in.n), kThreads,
           Board::bytes(cut), in, cut, moments);
  });
}

// Calls run(T{}, constant activation).
template <class Run>
void with_activation(const GroupNormArgs& args, const Run& run) {
  with_type(args.in.dtype, [&](auto type) {
    using None = std::integral_constant<Activation, Activation::none>;
    using Silu = std::integral_constant<Activation, Activation::silu>;
    if (args.activation == Activation::silu) return run(type, Silu{});
    run(type, None{});
  });
}

// Of what a block keeps of a slice.
inline int64_t bytes_of_kept(const View& in, const Cut& cut) {
  return int64_t{cut.turns} * kThreads * kVector * dtype_size(in.dtype);
}
inline void run_whole(const GroupNormArgs& args, const Cut& cut, gpu::Device& device) {
  const size_t shared = static_cast<size_t>(bytes_of_kept(args.in, cut)) + Board::bytes(cut);
  with_activation(args, [&](auto type, auto activation) {
    launch(device, whole_group_norm_kernel<decltype(type), activation>, grid_of(cut, 1, args.in.n),
           kThreads, shared, args, cut);
  });
}

inline void run_in_tiles(const GroupNormArgs& args, gpu::Device& device) {
  auto* moments = static_cast<Moments*>(args.workspace);
  const Cut cut = cut_into_tiles(args.in, args.groups);
  if (!args.moments.c) run_moments(args.in, cut, moments, device);
  const int64_t each = blocks_of(int64_t{cut.tiles} * cut.slices * args.in.n, kWriters);
  const auto grid = grid_of(cut, blocks_of(cut.tiles, each), args.in.n);
  with_activation(args, [&](auto type, auto activation) {
    launch(device, group_norm_kernel<decltype(type), activation>, grid, kThreads, Board::bytes(cut),
           args, cut, moments);
  });
}

inline void group_norm(const GroupNormArgs& given, gpu::Device& device) {
  require_size(given.in);
  GroupNormArgs args = given;
  args.in = as_row(args.in);
  args.out = as_row(args.out);
  const bool vectors = in_vectors(args.in, args.groups) && args.out.h == 1 &&
                       is_vectorized(args.out) && args.in.dtype == args.out.dtype &&
                       is_aligned(args.weight) && is_aligned(args.bias) &&
                       (args.activation == Activation::none || args.activation == Activation::silu);
  if (!vectors) return run_plain(args, device);
  const Cut whole = cut_into_slices(args.in, args.groups, kWholeSlice);
  if (!args.moments.c && bytes_of_kept(args.in, whole) <= kWholeBytes) {
    return run_whole(args, whole, device);
  }
  run_in_tiles(args, device);
}

inline void group_moments(const GroupMomentsArgs& args, gpu::Device& device) {
  require_size(args.in);
  auto* moments = static_cast<Moments*>(args.workspace);
  const View in = as_row(args.in);
  const bool vectors = in_vectors(in, args.groups);
  const Cut cut = vectors ? cut_into_tiles(in, args.groups) : cut_into_groups(in, args.groups);
  (vectors ? run_moments : run_plain_moments)(in, cut, moments, device);
  launch(device, store_moments_kernel, static_cast<uint32_t>(in.n), kThreads, 0, args.out,
         args.groups, cut, moments);
}

}  // namespace
}  // namespace sdcore::norm
