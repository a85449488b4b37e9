#include "graph/weights.h"

#include "base/error.h"

namespace sdcore {

WeightStore::Tensors WeightStore::tensors() const {
  Tensors all = tensors_;
  if (base_) all.merge(base_->tensors());
  return all;
}

const Tensor& WeightStore::tensor(std::string_view name) const {
  if (const WeightStore* other = elsewhere(name)) return other->tensor(name);
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), ErrorKind::checkpoint, "[weights] tensor '", name,
          "' is missing");
  return found->second;
}

Tensor WeightStore::shaped(std::string_view name, const Shape& shape) const {
  Tensor tensor = this->tensor(name);
  // The same elements under other sizes are welcome: files disagree about trailing ones.
  require(tensor.elements() == element_count(shape), ErrorKind::checkpoint, "[weights] tensor '",
          name, "' is ", to_string(tensor.shape), ", and the network wants ", to_string(shape));
  tensor.shape = shape;
  return tensor;
}

PackedWeightPtr WeightStore::matrix(const std::string& name, const Shape& shape, DType dtype,
                                    const KernelContext& kernels) {
  if (WeightStore* other = elsewhere(name)) return other->matrix(name, shape, dtype, kernels);
  const std::string key = concat(name, '|', dtype_name(dtype), '|', isa_name(kernels.isa));
  const std::lock_guard lock(mutex_);
  PackedWeightPtr& packed = matrices_[key];
  if (!packed) {
    const Tensor tensor = shaped(name, shape);
    packed = pack_weight(tensor, dtype, kernels);
    if (type_info(tensor.type).block_size == 1) tensor.release();
  }
  return packed;
}

void WeightStore::release() {
  if (base_) base_->release();
  const std::lock_guard lock(mutex_);
  matrices_.clear();  // vectors_ are small, and executables hold their addresses
  for (const auto& [name, tensor] : tensors_) tensor.release();
}

const float* WeightStore::vector(const std::string& name, const Shape& shape) {
  if (WeightStore* other = elsewhere(name)) return other->vector(name, shape);
  const std::lock_guard lock(mutex_);
  std::vector<float>& values = vectors_[name];
  if (values.empty()) {
    const Tensor tensor = shaped(name, shape);
    values.resize(static_cast<size_t>(tensor.elements()));
    to_float(tensor, 0, tensor.elements(), values.data());
  }
  return values.data();
}

}  // namespace sdcore
