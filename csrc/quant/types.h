// The types in which tensors are stored: ggml's, with ggml's numbers and names. Which there are is
// listed in quant_types.inc, one row a type; each row's meaning is one header of this room.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/shape.h"
#include "base/thread_pool.h"
#include "base/view.h"

namespace sdcore {

enum class Type : uint32_t {
#define SDCORE_TYPE(id, name, traits) name = id,
#include "quant/quant_types.inc"
#undef SDCORE_TYPE
};

struct TypeInfo {
  Type type;
  const char* name;     // as ggml prints it: "f16", "q4_K"
  int64_t block_size;   // elements a block
  int64_t block_bytes;  // bytes a block
  // Elements to and from float; n is a multiple of block_size. Null for types of integers, and
  // from_float is null for types that cannot be made. `importance` weighs the squared errors of the
  // values (null: all alike), and counts only where the type weighs them.
  void (*to_float)(const void* blocks, float* out, int64_t n);
  void (*from_float)(const float* values, const float* importance, void* blocks, int64_t n);
  bool weighs;
  // Where each 32 numbers are 8-bit integers times a scale, plus an offset if it has `offsets`:
  // those of n elements. Null for other types, and `offsets` may be null where it has none.
  void (*to_integers)(const void* blocks, int8_t* integers, float* scales, float* offsets,
                      int64_t n);
  bool offsets;
  int most_integer;  // none of them is further from zero; 0 where there are none
  // Turns n elements from one byte order into the other, in place.
  void (*swap_bytes)(void* blocks, int64_t n);
};

const std::vector<TypeInfo>& all_types();
const TypeInfo& type_info(Type type);
const TypeInfo* find_type(uint32_t ggml_id);       // null: not known
const TypeInfo* find_type(std::string_view name);  // by name, case ignored; null: not known
// That of tensors whose elements are such activations.
inline Type type_of(DType dtype) { return find_type(dtype_name(dtype))->type; }

// Bytes of a tensor of this shape, whose last size runs along the blocks; -1 when the shape does
// not divide into blocks or the number does not fit.
int64_t storage_bytes(Type type, const Shape& shape);

// Stored elements that somebody else keeps alive: a mapped file, an array, a buffer. They are in
// the byte order of the machine, at any address (safetensors promises no alignment).
struct Tensor {
  const void* data = nullptr;
  Type type = Type::f32;
  Shape shape;  // outermost first, as PyTorch: linear [out, in], conv [o, i, kh, kw]
  std::shared_ptr<const void> owner;    // keeps `data` valid
  const MappedFile* mapping = nullptr;  // the owner, where that is a mapped file

  int64_t elements() const { return element_count(shape); }
  // -1 where its end would cut a block. Blocks run through all elements in their order, so in a
  // tensor that was unfolded a row may begin within one.
  int64_t bytes() const { return storage_bytes(type, {elements()}); }
  // Lets the system take back the memory of a mapped tensor that is not needed soon. It stays
  // valid.
  void release() const {
    if (mapping)
      mapping->release(static_cast<const std::byte*>(data), static_cast<size_t>(bytes()));
  }
};

// Elements [begin, begin + count) as float; both must be multiples of the block size.
void to_float(const Tensor& tensor, int64_t begin, int64_t count, float* out);

// The same elements in another type, in memory of their own. From floats to floats and to the
// quantized types; an integer type goes only to itself. `importance` weighs the squared errors of
// the numbers of a row, one weight for each, not negative; empty: they all weigh the same.
Tensor convert(const Tensor& tensor, Type type, ThreadPool& pool,
               std::span<const float> importance = {});

// Other views of the same memory: the same elements in another shape, and the slices [begin, end)
// of the first axis. A quantized row can be moved but not cut; only unfolding gives rows that end
// within a block, to what lies in rows of another length than its own.
Tensor reshape(const Tensor& tensor, const Shape& shape);
Tensor unfold(const Tensor& tensor, const Shape& shape);
Tensor rows(const Tensor& tensor, int64_t begin, int64_t end);

}  // namespace sdcore
