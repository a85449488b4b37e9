// Which weights are multiplied as integers.
#pragma once

#include "base/cpu.h"
#include "quant/types.h"

namespace sdcore {

// In how many bits a linear layer with weights of this type, its inputs in bf16, multiplies them as
// integers in hardware at this level; 0: as floats. Those of 8 bits, for layers that may have them,
// are two to three times as fast as f32, those of 16 twice.
int integer_bits(Type type, Isa isa, bool int8_activations);

}  // namespace sdcore
