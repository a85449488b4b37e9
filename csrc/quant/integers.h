// i8, i16, i32, i64: stored and handed out as they are. They hold positions and counters, never
// weights, so they have no meaning as float.
#pragma once

#include "quant/format.h"

namespace sdcore::quant {

template <class Number>
struct IntegerFormat {
  static constexpr int64_t block_size = 1;
  struct [[gnu::packed]] Block {
    Number value;
  };
  SDCORE_FORMAT void swap(Block& block) { block.value = swapped(block.value); }
};

struct I8 : IntegerFormat<int8_t> {};
struct I16 : IntegerFormat<int16_t> {};
struct I32 : IntegerFormat<int32_t> {};
struct I64 : IntegerFormat<int64_t> {};

}  // namespace sdcore::quant
