// Token merging: tokens that say nearly the same become one (Bolya et al. 2023, "Token Merging for
// Fast Stable Diffusion"). The places of an image are parted into squares of two by two; the first
// token of each stays, and those of the others that are nearest to one that stays join it. Here a
// token is compared with what stays in its own square and the eight around it, not in all of them:
// neighbours are the most alike, and the cost is a dot product or nine a token, not thousands.
#pragma once

#include "base/view.h"
#include "kernels/context.h"

namespace sdcore {

// How many of the tokens of an image of this size join another: `ratio` of them, rounded down, and
// no more than may.
int64_t merged_tokens(int64_t height, int64_t width, double ratio);

// groups[i] is the number of the group that token i is in; groups are numbered by the places of
// the tokens that stay. Distance is the cosine's, the first of equals wins.
struct TokenGroupsArgs {
  View in;      // [n, 1, height * width, c]
  View groups;  // [n, 1, height * width, 1] i32
  int64_t height = 0, width = 0;
  int64_t merged = 0;  // tokens that join another, as `merged_tokens` gives them
};
void token_groups(const TokenGroupsArgs& args, const KernelContext& context);

// The mean of each group. A number outside `out` is in no group.
struct MeanTokensArgs {
  View in;      // [n, 1, t, c]
  View groups;  // [n, 1, t, 1] i32
  View out;     // [n, 1, t - merged, c]
};
void mean_tokens(const MeanTokensArgs& args, const KernelContext& context);

// To each token what its group has. A number outside `in` is an Error.
struct SpreadTokensArgs {
  View in;      // [n, 1, t - merged, c]
  View groups;  // [n, 1, t, 1] i32
  View out;     // [n, 1, t, c]
};
void spread_tokens(const SpreadTokensArgs& args, const KernelContext& context);

}  // namespace sdcore
