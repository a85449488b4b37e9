// A weight as the tile kernels of one variant read it.
#pragma once

#include <vector>

#include "base/buffer.h"
#include "base/guarded.h"
#include "gpu/device.h"
#include "gpu/streaming.h"
#include "kernels/gemm/byte_panels.h"
#include "kernels/gemm/engine.h"

namespace sdcore {

struct PackedWeight {
  const gemm::Variant* variant = nullptr;       // null: on a device
  DType dtype = DType::f32;                     // of the activations
  int64_t outputs = 0, inputs = 0, kernel = 1;  // kernel: taps of the convolution
  // What steps are cut from: `inputs` of each tap, or all taps' inputs at once where rows are
  // gathered because the kernel wants whole steps.
  int64_t channels = 0, taps = 1;
  Type stored = Type::f32;  // of the panels; of `source` where there are none
  bool woven = false;       // blocks of `source` are read from `woven_panels` (woven.h)
  bool offsets = false;     // of panels of bytes
  bool gathered = false;
  // Panels hold values and their gates (Rows); on a device they take turns, kGateRun rows each.
  bool gated = false;
  Tensor source;
  Buffer panels;
  // Made from `source` when they are wanted: see woven_panels() and release_woven().
  mutable Guarded<std::shared_ptr<const Buffer>> woven_panels;
  std::vector<PackedWeightPtr> phases;  // in place of both: of 2 x 2 outputs, pack_upsampled_weight
  std::vector<float> norms;             // of a convolution: winograd::weight_norms
  gpu::DeviceMemoryPtr on_device;       // in place of `source` and `panels`
  // In place of `on_device` where the device has no room; from `source`, where they lie there as
  // the kernels want them.
  std::unique_ptr<gpu::Streamed> streamed;

  bool is_for_device() const { return on_device || streamed; }

  int64_t steps() const { return (channels + gemm::kStep - 1) / gemm::kStep * taps; }
  int64_t panel_count() const { return (outputs + variant->panel - 1) / variant->panel; }
  // As stored; panel_bytes() is what a panel takes as the kernel reads it, where blocks are
  // unpacked.
  int64_t stored_panel_bytes() const {
    return woven ? inputs / type_info(stored).block_size * variant->woven_bytes(stored)
                 : panel_bytes();
  }
  int64_t panel_bytes() const {
    if (stored == gemm::kBytes)
      return steps() / taps * gemm::byte_group(taps, variant->panel, offsets);
    if (stored == gemm::kIntegers) return steps() * variant->integer_step_bytes;
    return steps() * gemm::kStep * variant->panel * (stored == Type::f32 ? 4 : 2);
  }
};

namespace gemm {

// Of a weight that is woven; the pages of a mapped file are given back for them.
std::shared_ptr<const Buffer> woven_panels(const PackedWeight& weight,
                                           const KernelContext& context);

// Every kernel, best first.
const std::vector<const Variant*>& variants();

// How a product's input is read: every pixel that a tap touches exists in memory.
struct Window {
  int kernel_h = 1, kernel_w = 1, stride = 1;
};

// `in` begins at the first tap of output pixel (0, 0) of image 0; its h and w are not looked at.
// The sizes of everything have been checked.
void multiply(const View& in, const View& out, const PackedWeight& weight, const Window& window,
              const Epilogue& epilogue, const KernelContext& context);

// The same with a weight on a device. `in` begins at its pixel (0, 0), and pixels outside it are
// zeros.
struct Padding {
  int top = 0, left = 0;
};
void multiply_on_device(const View& in, const View& out, const PackedWeight& weight,
                        const Window& window, const Padding& padding, const Epilogue& epilogue,
                        const KernelContext& context, void* workspace);
// Bytes that this wants, with so many taps and outputs of the weight.
size_t device_workspace(const View& in, const View& out, int64_t taps, int64_t outputs,
                        const gpu::Device& device);
// Fills what a weight on a device needs, from `weight`, and puts it there if the budget has room.
void upload(const Tensor& weight, PackedWeight& packed, const KernelContext& context);

// What pack_weight does, to be added to.
std::shared_ptr<PackedWeight> pack(const Tensor& weight, DType dtype, const KernelContext& context,
                                   bool int8_activations, bool gated = false);

// The weight's values in float32 as [outputs][inputs][kernel], or [outputs][kernel][inputs] for
// gathered rows. Of `packed`, sizes are known.
Buffer expand(const Tensor& weight, const PackedWeight& packed, const KernelContext& context);

// Of a weight whose sizes and dtype are known.
size_t bytes_on_device(const Tensor& weight, const PackedWeight& packed);

// Throws unless in, out and epilogue fit the weight and each other.
void check(const char* place, const View& in, const View& out, const PackedWeightPtr& weight,
           const Epilogue& epilogue, const KernelContext& context);

}  // namespace gemm
}  // namespace sdcore
