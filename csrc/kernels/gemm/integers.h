// Which weights are multiplied as integers.
#pragma once

#include "base/cpu.h"
#include "quant/types.h"

namespace sdcore {

// Whether a linear layer with weights of this type, its inputs in bf16, can multiply 8-bit integers
// in hardware at this level: two to three times as fast as in f32.
bool multiplies_integers(Type type, Isa isa);

}  // namespace sdcore
