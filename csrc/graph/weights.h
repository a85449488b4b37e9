// Named tensors of a network, and the forms of them that kernels want, made once and shared by
// every executable. Safe to use from many threads.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/guarded.h"
#include "kernels/gemm/gemm.h"
#include "quant/types.h"

namespace sdcore {

// How a product reads its matrix.
enum class WeightForm : uint8_t {
  plain,
  int8_activations,  // its other side may be rounded to 8 bits
  gated,             // see Epilogue
  upsampled,         // see pack_upsampled_weight
};

PackedWeightPtr pack_matrix(const Tensor& tensor, DType dtype, const KernelContext& kernels,
                            WeightForm form);

class WeightStore {
 public:
  using Tensors = std::map<std::string, Tensor, std::less<>>;

  // These tensors and, under other names, those of `base`, whose prepared forms are shared.
  explicit WeightStore(Tensors tensors, std::shared_ptr<WeightStore> base = nullptr)
      : tensors_(std::move(tensors)), base_(std::move(base)) {}

  // Throws Error(checkpoint) naming the tensor when it is not there.
  const Tensor& tensor(std::string_view name) const;
  Tensors tensors() const;

  PackedWeightPtr matrix(const std::string& name, const Shape& shape, DType dtype,
                         const KernelContext& kernels, WeightForm form = WeightForm::plain);
  // Whether that is prepared.
  bool has_matrix(const std::string& name, DType dtype, const KernelContext& kernels,
                  WeightForm form = WeightForm::plain) const;
  // As float32, here or on the device.
  const float* vector(const std::string& name, const Shape& shape, gpu::Device* device = nullptr);
  // As stored; on a device as activations of that type.
  Tensor table(const std::string& name, const Shape& shape, DType dtype, gpu::Device* device);
  // Gives back the memory of what was prepared, but for what somebody still holds, and of mapped
  // files. Nothing is lost: it is made again when it is wanted.
  void release();
  // Of mapped files alone, and of what is woven from them as fast as it is read.
  void release_mapped();
  // As stored, under the wanted shape.
  Tensor shaped(std::string_view name, const Shape& shape) const;

 private:
  static std::string matrix_key(const std::string& name, DType dtype, const KernelContext& kernels,
                                WeightForm form);
  // A copy on the device, as that type.
  const Tensor& uploaded(const std::string& name, const Shape& shape, DType dtype,
                         gpu::Device& device);

  // The store to ask instead of this one.
  WeightStore* elsewhere(std::string_view name) const {
    return tensors_.contains(name) ? nullptr : base_.get();
  }

  Tensors tensors_;
  std::shared_ptr<WeightStore> base_;
  mutable Guarded<std::map<std::string, PackedWeightPtr>> matrices_;
  Guarded<std::map<std::string, std::vector<float>>> vectors_;
  Guarded<std::map<std::string, Tensor>> on_device_;  // vectors and tables
};

}  // namespace sdcore
