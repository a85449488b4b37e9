#include "graph/weights.h"

#include "base/error.h"
#include "gpu/device.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/gemm/packed_weight.h"

namespace sdcore {
namespace {

const char* suffix_of(WeightForm form) {
  switch (form) {
    case WeightForm::int8_activations:
      return "|int8";
    case WeightForm::gated:
      return "|gated";
    case WeightForm::upsampled:
      return "|upsampled";
    case WeightForm::plain:
      break;
  }
  return "";
}

}  // namespace

PackedWeightPtr pack_matrix(const Tensor& tensor, DType dtype, const KernelContext& kernels,
                            WeightForm form) {
  if (form == WeightForm::upsampled) return pack_upsampled_weight(tensor, dtype, kernels);
  if (form == WeightForm::gated) return pack_gated_weight(tensor, dtype, kernels);
  const Shape& shape = tensor.shape;
  const bool taps = shape.size() == 4 && shape[2] * shape[3] > 1;
  return taps ? pack_conv2d_weight(tensor, dtype, kernels)
              : pack_weight(tensor, dtype, kernels, form == WeightForm::int8_activations);
}

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

std::string WeightStore::matrix_key(const std::string& name, DType dtype,
                                    const KernelContext& kernels, WeightForm form) {
  return concat(name, '|', dtype_name(dtype), '|',
                kernels.device ? kernels.device->id() : isa_name(kernels.isa), suffix_of(form));
}

bool WeightStore::has_matrix(const std::string& name, DType dtype, const KernelContext& kernels,
                             WeightForm form) const {
  if (const WeightStore* other = elsewhere(name)) {
    return other->has_matrix(name, dtype, kernels, form);
  }
  const auto matrices = matrices_.lock();
  const auto found = matrices->find(matrix_key(name, dtype, kernels, form));
  return found != matrices->end() && found->second;
}

PackedWeightPtr WeightStore::matrix(const std::string& name, const Shape& shape, DType dtype,
                                    const KernelContext& kernels, WeightForm form) {
  if (WeightStore* other = elsewhere(name)) {
    return other->matrix(name, shape, dtype, kernels, form);
  }
  const auto matrices = matrices_.lock();
  PackedWeightPtr& packed = (*matrices)[matrix_key(name, dtype, kernels, form)];
  if (!packed) {
    const Tensor tensor = shaped(name, shape);
    packed = pack_matrix(tensor, dtype, kernels, form);
    if (!packed->source.data) tensor.release();
  }
  return packed;
}

void WeightStore::release() {
  if (base_) base_->release();
  matrices_.lock()->clear();  // vectors are small, and executables hold their addresses
  release_mapped();
}

void WeightStore::release_mapped() {
  if (base_) base_->release_mapped();
  for (const auto& [key, matrix] : *matrices_.lock()) {
    if (matrix) release_woven(*matrix);
  }
  for (const auto& [name, tensor] : tensors_) tensor.release();
}

const Tensor& WeightStore::uploaded(const std::string& name, const Shape& shape, DType dtype,
                                    gpu::Device& device) {
  const std::string key = concat(name, '|', dtype_name(dtype), '|', device.id());
  const auto copies = on_device_.lock();
  Tensor& copy = (*copies)[key];
  if (copy.data) return copy;
  const Tensor tensor = shaped(name, shape);
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  to_float(tensor, 0, tensor.elements(), values.data());
  const TypeInfo& type = type_info(type_of(dtype));
  const size_t bytes = values.size() * static_cast<size_t>(dtype_size(dtype));
  const void* from = values.data();
  Buffer rounded;
  if (dtype != DType::f32) {
    rounded = Buffer(bytes);
    type.from_float(values.data(), nullptr, rounded.data(), tensor.elements());
    from = rounded.data();
  }
  const auto memory = device.allocate(bytes, "a weight");
  device.upload(memory->data(), from, bytes);
  copy = {memory->data(), type.type, shape, memory};
  return copy;
}

Tensor WeightStore::table(const std::string& name, const Shape& shape, DType dtype,
                          gpu::Device* device) {
  if (WeightStore* other = elsewhere(name)) return other->table(name, shape, dtype, device);
  return device ? uploaded(name, shape, dtype, *device) : shaped(name, shape);
}

const float* WeightStore::vector(const std::string& name, const Shape& shape, gpu::Device* device) {
  if (WeightStore* other = elsewhere(name)) return other->vector(name, shape, device);
  if (device) return static_cast<const float*>(uploaded(name, shape, DType::f32, *device).data);
  const auto vectors = vectors_.lock();
  std::vector<float>& values = (*vectors)[name];
  if (values.empty()) {
    const Tensor tensor = shaped(name, shape);
    values.resize(static_cast<size_t>(tensor.elements()));
    to_float(tensor, 0, tensor.elements(), values.data());
  }
  return values.data();
}

}  // namespace sdcore
