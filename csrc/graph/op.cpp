#include "graph/op.h"

#include <cstring>

#include "base/buffer.h"
#include "base/error.h"
#include "gpu/device.h"

namespace sdcore {

const std::vector<const Op*>& all_ops() {
  static const std::vector<const Op*> ops = {
#define SDCORE_OP(name) &op_##name,
#include "graph/ops/ops.inc"
#undef SDCORE_OP
  };
  return ops;
}

const Op& find_op(std::string_view name) {
  for (const Op* op : all_ops()) {
    if (name == op->name) return *op;
  }
  fail(ErrorKind::invalid_argument, "[graph] there is no op named '", name, "'");
}

View view_of(const TensorType& type) {
  const Shape& s = type.shape;
  View view;
  view.dtype = type.dtype;
  switch (s.size()) {
    case 1:
      view.n = s[0], view.c = 1;
      break;
    case 2:
      view.n = s[0];
      // Ids are one number a token; anything else of rank 2 is one vector an image.
      if (type.dtype == DType::i32) {
        view.w = s[1], view.c = 1;
      } else {
        view.c = s[1];
      }
      break;
    case 3:
      view.n = s[0], view.w = s[1], view.c = s[2];
      break;
    case 4:
      view.n = s[0], view.h = s[1], view.w = s[2], view.c = s[3];
      break;
    default:
      fail(ErrorKind::internal, "[graph] no view of ", to_string(s));
  }
  return view;
}

PackedWeightPtr Lowering::matrix(size_t input, WeightForm form) const {
  const Value& value = graph_.value(slot(input));
  matrices_.push_back(weights_->matrix(value.name, value.shape, dtype_, kernels_, form));
  return matrices_.back();
}

const float* Lowering::vector(size_t input) const {
  if (!has(input)) return nullptr;
  const Value& value = graph_.value(slot(input));
  return weights_->vector(value.name, value.shape, kernels_.device);
}

Tensor Lowering::table(size_t input) const {
  const Value& value = graph_.value(slot(input));
  return weights_->table(value.name, value.shape, dtype_, kernels_.device);
}

std::shared_ptr<const void> Lowering::constant(const void* data, size_t bytes) const {
  if (kernels_.device) {
    const auto memory = kernels_.device->allocate(bytes, "a constant");
    kernels_.device->upload(memory->data(), data, bytes);
    return {memory, memory->data()};
  }
  const auto buffer = std::make_shared<Buffer>(bytes);
  std::memcpy(buffer->data(), data, bytes);
  return {buffer, buffer->data()};
}

}  // namespace sdcore
