// What several ops share: shape checks with one wording, and the epilogue of matrix products.
#pragma once

#include "base/error.h"
#include "graph/attrs.h"
#include "graph/op.h"

namespace sdcore {

template <class A>
void check_attrs(const char* op, const Attrs& attrs) {
  read_attrs<A>(op, attrs);
}

inline int64_t channels(const TensorType& type) { return type.shape.back(); }

inline void require_rank(const char* op, const char* input, const TensorType& type, size_t low,
                         size_t high) {
  require(type.shape.size() >= low && type.shape.size() <= high, ErrorKind::invalid_argument, "[",
          op, "] ", input, " must have ", low, low == high ? "" : concat(" to ", high),
          " sizes, got ", to_string(type.shape));
}

inline void require_channels(const char* op, const char* input, const TensorType& type,
                             int64_t wanted) {
  require(channels(type) == wanted, ErrorKind::invalid_argument, "[", op, "] ", input,
          " must have ", wanted, " channels, got ", to_string(type.shape));
}

// Everything of an Epilogue but the views, which are known only when the step runs.
struct EpilogueSlots {
  explicit EpilogueSlots(const Lowering& lowering, size_t bias_input)
      : bias(lowering.vector(bias_input)),
        gated(lowering.fused().gated),
        image_bias(lowering.image_bias_slot()),
        activation(lowering.fused().activation),
        residual(lowering.residual_slot()) {}

  Epilogue resolve(const View* views) const {
    Epilogue epilogue;
    epilogue.gated = gated;
    epilogue.bias = bias;
    epilogue.activation = activation;
    if (image_bias != kAbsent) epilogue.image_bias = views[image_bias];
    if (residual != kAbsent) epilogue.residual = views[residual];
    return epilogue;
  }

  const float* bias;
  bool gated;
  int image_bias;
  Activation activation;
  int residual;
};

}  // namespace sdcore
