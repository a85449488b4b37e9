// Named tensors of a network, and the forms of them that kernels want, made once and shared by
// every executable. Safe to use from many threads.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "kernels/gemm/gemm.h"
#include "quant/types.h"

namespace sdcore {

class WeightStore {
 public:
  explicit WeightStore(std::map<std::string, Tensor, std::less<>> tensors)
      : tensors_(std::move(tensors)) {}

  // Throws Error(checkpoint) naming the tensor when it is not there.
  const Tensor& tensor(std::string_view name) const;
  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }

  PackedWeightPtr matrix(const std::string& name, const Shape& shape, DType dtype,
                         const KernelContext& kernels);
  const float* vector(const std::string& name, const Shape& shape);
  // As stored, under the wanted shape.
  Tensor shaped(std::string_view name, const Shape& shape) const;

 private:
  std::map<std::string, Tensor, std::less<>> tensors_;
  mutable std::mutex mutex_;
  std::map<std::string, PackedWeightPtr> matrices_;
  std::map<std::string, std::vector<float>> vectors_;
};

}  // namespace sdcore
