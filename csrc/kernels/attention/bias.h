// What is added to scores before their softmax: one number for each distance of query and key, and
// one for each key. Over any vector class.
#pragma once

#include "kernels/attention/kernel.h"
#include "simd/scalar.h"

namespace sdcore::attention_kernels {

// Of one block of queries, held in its scratch. Both are divided by the scale that scores are
// multiplied with afterwards.
template <class V>
struct Bias {
  const AttentionArgs& args;
  float *relative, *mask;  // [queries + tk], from the block's first query; [tk]

  // Floats of scratch for blocks of so many queries, rounded up to whole lanes.
  static int64_t floats(const AttentionArgs& args, int64_t queries) {
    const int64_t tk = args.k.w;
    return (args.relative.c ? queries + tk : 0) + (args.mask.c ? tk : 0);
  }

  Bias(const AttentionArgs& arguments, const Block& block, int64_t queries, float* scratch)
      : args(arguments),
        relative(args.relative.c ? scratch : nullptr),
        mask(args.mask.c ? scratch + (relative ? queries + args.k.w : 0) : nullptr) {
    const int64_t tk = args.k.w;
    const float inverse = 1.0f / args.scale;
    if (relative) {
      const int64_t count = block.end - block.begin + tk - 1;
      for (int64_t i = 0; i < queries + tk; ++i) {
        const int64_t row = block.begin + i;
        relative[i] = i < count ? number(args.relative, 0, row, block.head) * inverse : 0.0f;
      }
    }
    if (mask) {
      for (int64_t j = 0; j < tk; ++j) mask[j] = number(args.mask, block.image, 0, j) * inverse;
    }
  }

  bool any() const { return relative || mask; }

  // scores[count][lanes] of keys from `first` and queries from `query` of the block.
  template <int64_t lanes>
  void add(float* scores, int64_t first, int64_t count, int64_t query) const {
    if (!any()) return;
    for (int64_t j = 0; j < count; ++j) {
      const auto key = V::set(mask ? mask[first + j] : 0.0f);
      const float* row = relative ? relative + query + args.k.w - 1 - (first + j) : nullptr;
      for (int64_t i = 0; i < lanes; i += V::width) {
        float* x = scores + j * lanes + i;
        auto sum = V::add(V::load(x), key);
        if (row) sum = V::add(sum, V::load(row + i));
        V::store(x, sum);
      }
    }
  }

  // The same for scores[queries][keys], a square of so many, where `count` keys are there.
  template <int64_t side>
  void add_to_square(float* scores, int64_t first, int64_t count, int64_t query) const {
    for (int64_t i = 0; i < side; ++i) {
      float* row = scores + i * side;
      if (mask) {
        for (int64_t j = 0; j < count; ++j) row[j] += mask[first + j];
      }
      if (relative) {
        const float* distance = relative + query + i + args.k.w - 1 - first;
        for (int64_t j = 0; j < count; ++j) row[j] += distance[-j];
      }
    }
  }

 private:
  static float number(const View& v, int64_t n, int64_t row, int64_t channel) {
    if (v.dtype == DType::bf16) return to_float(v.at<const bf16>(n, 0, row)[channel]);
    return v.at<const float>(n, 0, row)[channel];
  }
};

}  // namespace sdcore::attention_kernels
