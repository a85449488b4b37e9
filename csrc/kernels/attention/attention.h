// softmax(q kᵀ · scale + relative + mask) v per head, in tiles with a running softmax: the full
// matrix never exists.
#pragma once

#include <string>
#include <vector>

#include "base/view.h"
#include "kernels/context.h"

namespace sdcore {

struct AttentionArgs {
  View q;    // [n, 1, tq, heads * d]
  View k;    // [n, 1, tk, heads * d]
  View v;    // [n, 1, tk, heads * d]
  View out;  // [n, 1, tq, heads * d]
  int heads = 1;
  float scale = 1.0f;
  bool causal = false;  // query i sees keys 0..i
  // Added to scores where given (c is not 0), of either dtype. All values must be finite.
  View relative = {};  // [1, 1, tq + tk - 1, heads]: row i - j + tk - 1 for query i and key j
  View mask = {};      // [n, 1, 1, tk]: for each key of an image
  void* workspace = nullptr;
};

size_t attention_workspace(const AttentionArgs& args, const KernelContext& context);
void attention(const AttentionArgs& args, const KernelContext& context);

std::vector<std::string> attention_variants();  // best first

}  // namespace sdcore
