// The geometry of a product, and how its work is split.
#include "kernels/gemm/engine.h"

#include <algorithm>

#include "kernels/gemm/packed_weight.h"

namespace sdcore::gemm {
namespace {

// A chunk of input rows stays in a core's second-level cache beside weights (Variant::chunk_bytes).
// Weights are read (or unpacked) again for each chunk, so where that is much, chunks are large.
constexpr int64_t kLargeChunkBytes = 1536 << 10;
constexpr int64_t kManyWeights = 8 << 20;
// Rows of a chunk are also bounded so that the sums of one panel stay there too.
constexpr int64_t kChunkRows = 2048;
// Tasks a thread, so that none waits long for the last one.
constexpr int64_t kTasksPerThread = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Range part(int64_t total, int64_t parts, int64_t index) {
  return {total * index / parts, total * (index + 1) / parts};
}

int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

// Outputs above this are written past the caches, which could not hold them anyway.
constexpr int64_t kLargeOutput = 2 << 20;

struct Segments {
  int64_t count, rows, lines, pitch;
};

// What a tile costs beyond its rows, in rows: loads of the panel, the loop's ends.
constexpr int64_t kTileCost = 3;

int64_t cost(const Segments& s, const Variant& variant) {
  const int64_t tiles = ceil_div(s.rows, variant.rows);
  const int64_t rows =
      variant.equal_tiles ? tiles * std::min<int64_t>(s.rows, variant.rows) : s.rows;
  return s.count * (rows + tiles * kTileCost);
}

// The cheapest of: everything in one segment, an image a segment with the pixels between its lines
// computed and dropped, a line a segment.
Segments choose_segments(const View& in, const View& out, int stride, const Variant& variant) {
  const int64_t lines = out.n * out.h;
  const int64_t step = in.stride_w * stride, line = in.stride_h * stride;
  if ((out.h == 1 || line == out.w * step) && (out.n == 1 || in.stride_n == out.h * out.w * step)) {
    return {1, lines * out.w, lines, out.w};
  }
  Segments best{lines, out.w, 1, out.w};
  if (step > 0 && line % step == 0 && line / step >= out.w) {
    const int64_t pitch = line / step;
    const Segments image{out.n, (out.h - 1) * pitch + out.w, out.h, pitch};
    if (cost(image, variant) < cost(best, variant)) best = image;
  }
  return best;
}

// What a product of a stack costs of that of other tiles, as it loads fewer (stack_amx.h).
constexpr double kStackCost = 0.85;

bool stacks(const Segments& other, const View& out, const Window& window, const Variant& variant) {
  const bool fits = window.kernel_h == 3 && window.kernel_w == 3 && window.stride == 1 &&
                    out.h >= variant.stack && out.w >= variant.rows;
  if (variant.stack == 1 || !fits) return false;
  const int64_t tiles =
      ceil_div(out.h, variant.stack) * variant.stack * ceil_div(out.w, variant.rows);
  const auto own = static_cast<double>(out.n * tiles * (variant.rows + kTileCost));
  return own * kStackCost < static_cast<double>(cost(other, variant));
}

void set_geometry(const View& in, const Window& window, const Variant& variant, bool gathered,
                  Product& p) {
  const int64_t size = dtype_size(in.dtype);
  p.in = static_cast<const char*>(in.data);
  p.in_stride_n = in.stride_n * size;
  p.in_stride_h = in.stride_h * window.stride * size;
  p.row_bytes = in.stride_w * window.stride * size;
  const Segments s = choose_segments(in, p.out, window.stride, variant);
  if (!gathered && stacks(s, p.out, window, variant)) {
    p.stack = variant.stack;
    p.segments = p.out.n * ceil_div(p.out.h, p.stack);
    p.tiles_per_segment = ceil_div(p.out.w, variant.rows) * p.stack;
    return;
  }
  p.segments = s.count;
  p.segment_rows = s.rows;
  p.segment_lines = s.lines;
  p.pitch = s.pitch;
  p.tiles_per_segment = ceil_div(s.rows, variant.rows);
}

// Byte offsets of a row's taps from its first.
std::vector<int64_t> tap_offsets(const View& in, const Window& window) {
  std::vector<int64_t> taps;
  for (int64_t y = 0; y < window.kernel_h; ++y) {
    for (int64_t x = 0; x < window.kernel_w; ++x) {
      taps.push_back((y * in.stride_h + x * in.stride_w) * dtype_size(in.dtype));
    }
  }
  return taps;
}

// Channels outermost: consecutive steps read neighbouring pixels, which are then still in cache.
std::vector<Step> make_steps(const PackedWeight& weight, const std::vector<int64_t>& taps,
                             const Window& window, bool gathered, int64_t size) {
  std::vector<Step> steps;
  const int64_t stride = gathered ? size * weight.variant->rows : size;
  for (int64_t c = 0; c < weight.channels; c += kStep) {
    const auto channels = static_cast<int32_t>(std::min<int64_t>(kStep, weight.channels - c));
    for (int64_t t = 0; t < weight.taps; ++t) {
      steps.push_back(
          {(gathered ? 0 : taps[t]) + c * stride, channels, gathered ? 1 : window.kernel_w});
    }
  }
  return steps;
}

// A kernel of integers reads the input quantized, in memory that all threads share: every panel
// reads every row.
View quantized_view(const View& out, int64_t channels, int64_t block_bytes) {
  return dense_view(nullptr, DType::bf16, out.n, out.h, out.w, channels / kStep * block_bytes / 2);
}

std::vector<Step> make_integer_steps(int64_t channels, int64_t block_bytes) {
  std::vector<Step> steps;
  for (int64_t i = 0; i < channels / kStep; ++i) steps.push_back({i * block_bytes, kStep, 1});
  return steps;
}

// The pixels that a kernel of one tap reads for `out`, in its order.
View pixels_of(const View& in, const View& out, int stride) {
  View pixels = in;
  pixels.h = out.h;
  pixels.w = out.w;
  pixels.stride_h *= stride;
  pixels.stride_w *= stride;
  return pixels;
}

// Pixels that are quantized together.
constexpr int64_t kQuantizedPixels = 16;

char* quantize(const View& pixels, const Variant& variant, ThreadPool& pool) {
  std::byte* rows = pool.shared_scratch();
  const int64_t count = pixels.pixels();
  pool.parallel_for(ceil_div(count, kQuantizedPixels), [&](int64_t task, int) {
    const int64_t begin = task * kQuantizedPixels;
    variant.quantize(pixels, begin, std::min(begin + kQuantizedPixels, count), rows);
  });
  return reinterpret_cast<char*>(rows);
}

// Weights of at most so many bytes, and for at least so many rows, are unpacked once for all tasks;
// else a task unpacks the panels that it multiplies.
constexpr int64_t kUnpackedBytes = 8 << 20;
constexpr int64_t kUnpackedRows = 512;

bool unpacks_once(const Product& p, const Variant& variant) {
  return p.unpack && variant.pairs && p.out.pixels() >= kUnpackedRows &&
         p.panel_count * p.panel_bytes <= kUnpackedBytes;
}

void unpack_all(const Variant& variant, ThreadPool& pool, Product& p) {
  std::byte* panels = pool.shared_scratch();
  pool.parallel_for(p.panel_count, [&](int64_t panel, int thread) {
    variant.unpack(p, panel, panels + panel * p.panel_bytes, pool.scratch(thread));
  });
  p.panels = panels;
  p.stored = Type::bf16;
  p.unpack = nullptr;
}

void set_chunks(int64_t channel_bytes, int stride, int threads, bool unpacked,
                const Variant& variant, Product& p) {
  const int64_t tiles = p.segments * p.tiles_per_segment;
  const int64_t tile_bytes = variant.rows * stride * stride * std::max<int64_t>(channel_bytes, 1);
  const bool many = unpacked || p.panel_count * p.panel_bytes > kManyWeights;
  const int64_t most = std::clamp<int64_t>(
      (many ? kLargeChunkBytes : variant.chunk_bytes) / tile_bytes, 1, kChunkRows / variant.rows);
  p.tile_chunks = ceil_div(tiles, most);
  if (p.tile_chunks > 1) p.tile_chunks = ceil_div(p.tile_chunks, threads) * threads;
  // Weights that stay in that cache too are read once by a thread, and so is the input then.
  const int64_t stacks = tiles / p.stack, tasks = threads * kTasksPerThread;
  p.stay = !unpacked && p.panel_count * p.panel_bytes <= variant.chunk_bytes;
  if (p.stay && stacks >= tasks) p.tile_chunks = std::max(p.tile_chunks, tasks);
  p.tile_chunks = std::min(stacks, p.tile_chunks);
  const int64_t wanted = threads == 1 ? 1 : ceil_div(tasks, p.tile_chunks);
  p.panel_chunks = std::min(p.panel_count, wanted);
}

void set_scratch(const Variant& variant, Product& p) {
  const auto bytes = [](int64_t count, size_t each) {
    return align_up(static_cast<size_t>(count) * each);
  };
  const int64_t tiles =
      ceil_div(p.segments * p.tiles_per_segment / p.stack, p.tile_chunks) * p.stack;
  const int64_t block = p.block_steps * kStep * variant.panel;
  // With one pass over the steps, sums leave a tile at once.
  const int64_t live =
      p.block_steps < p.step_count ? tiles + p.stack : std::max<int64_t>(2, p.stack);
  Scratch& s = p.scratch;
  s.rows = bytes(tiles, sizeof(Tile));
  s.sums = s.rows + bytes(tiles * variant.rows, sizeof(Row));
  s.block = s.sums + bytes(live * variant.rows * variant.panel, sizeof(float));
  s.values = s.block;
  const bool widened = !variant.pairs && p.stored != Type::f32 && p.stored != kIntegers;
  if (p.unpack || widened || p.stored == kBytes) {
    s.values += bytes(block, variant.pairs ? 2 : 4);
  }
  s.line = s.values + (p.unpack ? bytes(variant.panel * kUnpack, sizeof(float)) : 0);
  s.gathered = s.line + (p.gather_count ? bytes(p.step_count * kStep, 2) : 0);
  s.bytes = s.gathered;
  if (p.gather_count) s.bytes += bytes(tiles * variant.rows * p.step_count * kStep, 2);
  if (p.widened) s.bytes += bytes(tiles * variant.rows, widened_row_bytes(p.widened));
}

void set_weight(const PackedWeight& w, const Buffer* woven, Product& p) {
  p.outputs = w.outputs;
  p.stored = w.stored;
  p.panels = w.panels.data();
  p.panel_bytes = w.panel_bytes();
  p.taps = w.taps;
  p.offsets = w.offsets;
  p.gated = w.gated;
  p.panel_count = w.panel_count();
  if (w.panels.size() == 0) {
    p.unpack = &type_info(w.stored);
    p.blocks = woven ? woven->data() : static_cast<const std::byte*>(w.source.data);
    p.woven_bytes = woven ? w.stored_panel_bytes() : 0;
    p.row_blocks_bytes = w.inputs / p.unpack->block_size * p.unpack->block_bytes;
    p.bf16_weights = w.variant->dtype == DType::bf16;
  }
}

}  // namespace

Range tiles_of(const Product& p, int64_t task) {
  const int64_t stacks = p.segments * p.tiles_per_segment / p.stack;
  const Range range = part(stacks, p.tile_chunks, task / p.panel_chunks);
  return {range.begin * p.stack, range.end * p.stack};
}

Range panels_of(const Product& p, int64_t task) {
  return part(p.panel_count, p.panel_chunks, task % p.panel_chunks);
}

namespace {

Row row_of(const Product& p, bool kept, int64_t n, int64_t y, int64_t x) {
  const auto at = [&](const View& v) { return n * v.stride_n + y * v.stride_h + x * v.stride_w; };
  return {kept ? at(p.out) : -1, at(p.epilogue.residual), n * p.epilogue.image_bias.stride_n};
}

// Stacks follow each other from left to right, and the last of a line or of an image reach back.
void fill_stacks(const Product& p, Range range, int max_rows, Tile* tiles, Row* rows) {
  const int64_t of_image = ceil_div(p.out.h, p.stack);
  for (int64_t t = range.begin; t < range.end; ++t, ++tiles, rows += max_rows) {
    const int64_t segment = t / p.tiles_per_segment, index = t % p.tiles_per_segment;
    const int64_t n = segment / of_image;
    const int64_t fresh_y = segment % of_image * p.stack, fresh_x = index / p.stack * max_rows;
    const int64_t y = std::min(fresh_y, p.out.h - p.stack) + index % p.stack;
    const int64_t x = std::min(fresh_x, p.out.w - max_rows);
    *tiles = {p.in + n * p.in_stride_n + y * p.in_stride_h + x * p.row_bytes, max_rows};
    for (int64_t i = 0; i < max_rows; ++i) {
      rows[i] = row_of(p, y >= fresh_y && x + i >= fresh_x, n, y, x + i);
    }
  }
}

}  // namespace

void fill_tiles(const Product& p, Range range, int max_rows, bool equal_tiles, Tile* tiles,
                Row* rows) {
  if (p.stack > 1) return fill_stacks(p, range, max_rows, tiles, rows);
  const View& out = p.out;
  for (int64_t t = range.begin; t < range.end; ++t, ++tiles, rows += max_rows) {
    const int64_t segment = t / p.tiles_per_segment, index = t % p.tiles_per_segment;
    Range r = part(p.segment_rows, p.tiles_per_segment, index);
    int64_t fresh = r.begin;
    if (equal_tiles) {
      const int64_t size = std::min<int64_t>(p.segment_rows, max_rows);
      fresh = index * size;
      r.begin = std::min(fresh, p.segment_rows - size);
      r.end = r.begin + size;
    }
    const int64_t line = segment * p.segment_lines;
    tiles->a =
        p.in + line / out.h * p.in_stride_n + line % out.h * p.in_stride_h + r.begin * p.row_bytes;
    tiles->rows = static_cast<int>(r.end - r.begin);
    for (int64_t i = r.begin; i < r.end; ++i) {
      const int64_t x = i % p.pitch, of = line + i / p.pitch;
      rows[i - r.begin] = row_of(p, i >= fresh && x < out.w, of / out.h, of % out.h, x);
    }
    for (int64_t i = r.end - r.begin; i < max_rows; ++i) rows[i] = {-1, 0, 0};
  }
}

void multiply(const View& in, const View& out, const PackedWeight& weight, const Window& window,
              const Epilogue& epilogue, const KernelContext& context) {
  if (out.pixels() == 0) return;
  const Variant& variant = *weight.variant;
  Product p;
  p.out = out;
  p.epilogue = epilogue;
  p.past_caches = out.pixels() * out.c * dtype_size(out.dtype) > kLargeOutput;
  const auto woven = weight.woven ? woven_panels(weight, context) : nullptr;
  set_weight(weight, woven.get(), p);
  const bool integers = variant.block_bytes > 0;
  const View read = integers ? quantized_view(out, weight.inputs, variant.block_bytes) : in;
  const Window taken = integers ? Window{} : window;
  const bool gathered = weight.gathered;
  set_geometry(read, taken, variant, gathered, p);
  const std::vector<int64_t> taps = tap_offsets(read, window);
  p.widened = variant.widens ? weight.inputs : 0;
  const int64_t size = variant.widens ? 4 : dtype_size(in.dtype);
  const std::vector<Step> steps = integers ? make_integer_steps(weight.inputs, variant.block_bytes)
                                           : make_steps(weight, taps, window, gathered, size);
  p.steps = steps.data();
  p.step_count = static_cast<int64_t>(steps.size());
  p.block_steps = p.stack > 1       ? variant.stack_steps
                  : weight.taps > 1 ? round_up(variant.block_steps, weight.taps)
                                    : variant.long_block_steps;
  if (gathered) {
    p.gather_taps = taps.data();
    p.gather_count = static_cast<int64_t>(taps.size());
    p.gather_bytes = weight.inputs * dtype_size(in.dtype);
  }
  const int64_t channels = integers ? read.c : weight.inputs;
  const bool once = unpacks_once(p, variant);
  const bool unpacked = !once && (p.unpack || p.stored == kBytes);
  set_chunks(channels * size, taken.stride, context.pool.size(), unpacked, variant, p);
  set_scratch(variant, p);
  const int64_t shared = integers ? read.n * read.stride_n * 2
                         : once   ? p.panel_count * p.panel_bytes
                                  : 0;
  const auto lock = context.pool.reserve_scratch(p.scratch.bytes, static_cast<size_t>(shared));
  if (integers) p.in = quantize(pixels_of(in, out, window.stride), variant, context.pool);
  if (once) unpack_all(variant, context.pool, p);
  context.pool.parallel_for(p.tile_chunks * p.panel_chunks, [&](int64_t task, int thread) {
    variant.run(p, task, context.pool.scratch(thread));
  });
}

}  // namespace sdcore::gemm
