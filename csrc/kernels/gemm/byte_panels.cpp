// Packing quantized convolutions.
#include "kernels/gemm/byte_panels.h"

#include <algorithm>
#include <cstring>

#include "kernels/gemm/packed_weight.h"

namespace sdcore::gemm {
namespace {

// What a weight's blocks hold, in the order of its elements.
struct Integers {
  Buffer bytes, scales, offsets;

  Integers(const Tensor& weight, ThreadPool& pool) {
    const TypeInfo& info = type_info(weight.type);
    const int64_t count = weight.elements();
    const auto floats = static_cast<size_t>(count / kStep) * sizeof(float);
    bytes = Buffer(static_cast<size_t>(count));
    scales = Buffer(floats);
    if (info.offsets) offsets = Buffer(floats);
    constexpr int64_t piece = 1 << 16;  // a multiple of every block size
    pool.parallel_for((count + piece - 1) / piece, [&](int64_t i, int) {
      const int64_t begin = i * piece;
      const auto* blocks =
          static_cast<const std::byte*>(weight.data) + begin / info.block_size * info.block_bytes;
      info.to_integers(blocks, all_bytes() + begin, floats_of(scales) + begin / kStep,
                       info.offsets ? floats_of(offsets) + begin / kStep : nullptr,
                       std::min(piece, count - begin));
    });
  }

  int8_t* all_bytes() const { return reinterpret_cast<int8_t*>(bytes.data()); }
  static float* floats_of(const Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }
};

// [output][block] to [block][output] of the outputs that there are.
void turn_floats(const Buffer& from, int64_t first, int64_t row, int64_t outputs, int64_t taps,
                 int64_t panel, float* to) {
  for (int64_t n = 0; n < outputs; ++n) {
    const float* of_output = Integers::floats_of(from) + first + n * row;
    for (int64_t block = 0; block < taps; ++block) to[block * panel + n] = of_output[block];
  }
}

}  // namespace

void pack_bytes(const Tensor& weight, PackedWeight& w, ThreadPool& pool) {
  const Integers integers(weight, pool);
  const int64_t panel = w.variant->panel, row = w.inputs * w.taps;
  const int64_t scales = byte_scales(w.taps, panel, false);
  const auto panel_bytes = static_cast<size_t>(w.panel_bytes());
  w.panels = Buffer(panel_bytes * static_cast<size_t>(w.panel_count()));
  pool.parallel_for(w.panel_count(), [&](int64_t number, int) {
    std::byte* out = w.panels.data() + panel_bytes * static_cast<size_t>(number);
    const int64_t left = w.outputs - number * panel, outputs = std::min(panel, left);
    if (outputs < panel) std::memset(out, 0, panel_bytes);
    for (int64_t c = 0; c < w.inputs; c += kStep) {
      const int64_t first = number * panel * row + c * w.taps;
      auto* floats = reinterpret_cast<float*>(out);
      turn_floats(integers.scales, first / kStep, row / kStep, outputs, w.taps, panel, floats);
      if (w.offsets) {
        turn_floats(integers.offsets, first / kStep, row / kStep, outputs, w.taps, panel,
                    floats + scales);
      }
      auto* bytes = reinterpret_cast<int8_t*>(floats + byte_scales(w.taps, panel, w.offsets));
      for (int64_t i = 0; i < kStep * w.taps; ++i) {
        const int64_t channel = i / w.taps, tap = i % w.taps;
        const int8_t* from = integers.all_bytes() + first + i;
        int8_t* to = bytes + (tap * kStep + channel) * panel;
        for (int64_t n = 0; n < outputs; ++n) to[n] = from[n * row];
      }
      out += byte_group(w.taps, panel, w.offsets);
    }
  });
}

}  // namespace sdcore::gemm
