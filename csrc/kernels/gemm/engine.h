// Inside the room: how a linear layer or a convolution is cut into tiles, and what the kernels of
// each instruction set offer. Their files include this too, so that it holds only plain data.
//
//   output pixels  ->  segments (A rows at one constant stride)  ->  tiles of a few rows
//   outputs        ->  panels of adjacent weights, packed
//   sum            ->  steps: 32 channels of one tap, at a fixed offset from a row's first tap
//
// A task is a chunk of tiles times a chunk of panels. Sums are never split, and the steps come in
// one order that the weight and the size of an image decide, so a result depends on neither threads
// nor batch.
#pragma once

#include "kernels/gemm/gemm.h"

namespace sdcore::gemm {

inline constexpr int kStep = 32;

// Rows of blocks are unpacked this many values at a time: the largest block of any type.
inline constexpr int kUnpack = 256;
// How far before its use a block of such steps is asked for.
inline constexpr int kBlocksAhead = 8;

// The type of panels that hold weights as integers with scales of their own, 32 of each output.
inline constexpr Type kIntegers = Type::i16;

// 32 activations of a row as a kernel that multiplies integers reads them: low + scale * values[i].
struct ActivationBlock {
  float scale, low;
  float scaled_sum;  // scale times the sum of the values
  uint8_t values[kStep];
};

// The same in 16 bits: scale * values[i]. bf16 itself errs far more at the largest of them.
struct WideActivationBlock {
  float scale;
  float scaled_sum;
  int16_t values[kStep];
};

struct Range {
  int64_t begin, end;
};

struct Step {
  int64_t offset;    // bytes from a row's first tap
  int32_t channels;  // 1..kStep
  int32_t run;       // steps from here on that read mostly the same pixels: a line of taps
};

// Weights that will be read soon, to be brought nearer meanwhile.
struct Ahead {
  const char* begin;
  int64_t bytes;
};

struct Tile {
  const char* a;  // first row's first tap
  int rows;
};

// Where one row of a tile goes, in elements; out is -1 for a row that is computed and dropped.
struct Row {
  int64_t out, residual, image_bias;
};

// The row of a weight that is output n of a panel. Of a gated weight, half of a panel's outputs are
// values and the other half their gates, which come after all values in it.
struct Rows {
  int64_t outputs;
  bool gated = false;

  int64_t operator()(int64_t panel, int64_t width, int64_t n) const {
    if (!gated) return panel * width + n;
    const int64_t half = width / 2;
    return n / half * (outputs / 2) + panel * half + n % half;
  }
};

// A weight to be packed: `outputs` rows of [channels][taps].
struct PackSource {
  const std::byte* data;
  Type type;  // f32, f16, bf16, or one of woven blocks
  int64_t outputs, channels, taps;
  Type stored;         // f32, f16, bf16, kIntegers, or `type`: woven
  bool gated = false;  // see Rows
};

// Where the parts of a task's scratch memory begin.
struct Scratch {
  size_t rows = 0, sums = 0, block = 0, values = 0, line = 0, gathered = 0, bytes = 0;
};

// From one row of floats to the next: never a multiple of 4 KiB, at which caches collide.
constexpr int64_t widened_row_bytes(int64_t channels) { return (channels * 4 + 127) / 64 * 64; }

struct Product {
  int64_t outputs = 0;
  Type stored = Type::f32;            // of the panels; a quantized type: unpacked from `blocks`
  const std::byte* panels = nullptr;  // panel_bytes each
  int64_t panel_bytes = 0;
  int64_t taps = 1;                   // of the weight
  bool offsets = false;               // of panels of bytes
  const std::byte* blocks = nullptr;  // row_blocks_bytes for each output, or woven (woven.h)
  int64_t row_blocks_bytes = 0;
  int64_t woven_bytes = 0;           // of a panel of woven blocks; 0: they are in rows
  const TypeInfo* unpack = nullptr;  // of blocks
  bool bf16_weights = false;         // what was unpacked is rounded to bf16
  bool gated = false;                // see Rows
  bool stay = false;                 // panels stay in a core's cache: none is asked for early

  const char* in = nullptr;  // first tap of the first output pixel
  View out;
  Epilogue epilogue;
  bool past_caches = false;  // the output is too large to be found in a cache later

  int64_t in_stride_n = 0, in_stride_h = 0;  // bytes between images, and between output lines
  int64_t row_bytes = 0;                     // between the A rows of a tile
  int64_t segment_lines = 1;                 // output lines (h) that a segment covers
  int64_t pitch = 1;                         // A rows from one output line to the next
  int64_t segments = 0, segment_rows = 0, tiles_per_segment = 0;
  // Tiles that lie below each other and are multiplied together; a segment is so many lines then.
  int64_t stack = 1;

  const Step* steps = nullptr;
  int64_t step_count = 0;
  int64_t block_steps = 0;  // steps that one pass over the tiles covers

  // Gathered rows: gather_bytes from each of the taps, zeros up to step_count * kStep.
  const int64_t* gather_taps = nullptr;
  int64_t gather_count = 0, gather_bytes = 0;
  int64_t widened = 0;  // channels of a row that is copied as floats

  int64_t tile_chunks = 1, panel_chunks = 1, panel_count = 0;
  Scratch scratch;
};

Range tiles_of(const Product& product, int64_t task);
Range panels_of(const Product& product, int64_t task);
// Fills the tables of these tiles; a tile has max_rows entries in `rows`. With equal_tiles the last
// tile of a segment reaches back over the one before it, and drops the rows that they share.
void fill_tiles(const Product& product, Range range, int max_rows, bool equal_tiles, Tile* tiles,
                Row* rows);

struct Variant {
  const char* name;
  Isa isa;
  DType dtype;       // of the activations
  int rows;          // most rows a tile can have
  int panel;         // outputs in a panel
  bool equal_tiles;  // tiles of one product all have the same number of rows
  bool pairs;        // panels hold pairs of bf16
  bool whole_steps;  // every step has 32 channels, else rows are gathered
  bool widens;       // reads copies of rows, as floats: for weights of one tap
  bool gates;        // takes gated weights
  bool bytes;        // reads panels of bytes
  // Bytes of a block of activations, if it multiplies integers: those of quantized types, or those
  // that floats are packed as. The other rows multiply floats.
  int block_bytes;
  bool int8;        // they are rounded to 8 bits, which not every layer bears
  int most_weight;  // of quantized types: none may be further from zero
  int stack;        // tiles of a stack, of 3x3 taps; 1: it multiplies none
  // Steps that one pass over the tiles covers: of a convolution, about, of a plain product, and of
  // stacks.
  int block_steps, long_block_steps, stack_steps;
  int64_t chunk_bytes;                // of input that a task reads, where weights are few
  int64_t integer_step_bytes;         // of a panel of kIntegers; 0: it has no such panels
  int64_t (*woven_bytes)(Type type);  // of blocks of a panel, woven; 0: not of this type
  void (*pack)(const PackSource& source, int64_t panel, std::byte* out, std::byte* scratch);
  // Of blocks, all steps of a panel as the kernel reads them, which is as pairs or floats.
  void (*unpack)(const Product& product, int64_t panel, std::byte* out, std::byte* scratch);
  // Of a kernel of integers: pixels [begin, end) of the input as blocks, pixel 0 at `out`.
  void (*quantize)(const View& in, int64_t begin, int64_t end, std::byte* out);
  void (*run)(const Product& product, int64_t task, std::byte* scratch);
};

#define SDCORE_GEMM(variant) extern const Variant variant;
#define SDCORE_GEMM_X86(variant) SDCORE_GEMM(variant)
#include "kernels/gemm/kernels.inc"
#undef SDCORE_GEMM
#undef SDCORE_GEMM_X86

}  // namespace sdcore::gemm
