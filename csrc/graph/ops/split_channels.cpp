// split_channels(x [n, k * c], parts = k) -> tokens [n, k, c]
#include "graph/ops/regroup.h"

namespace sdcore {
namespace {

struct SplitAttrs {
  int64_t parts = 1;

  template <class F>
  void fields(F&& f) {
    f("parts", parts);
  }
};

SplitAttrs read(const Attrs& attrs) { return read_attrs<SplitAttrs>("split_channels", attrs); }

void check(const Attrs& attrs) {
  const int64_t parts = read(attrs).parts;
  require(parts >= 1, ErrorKind::invalid_argument, "[split_channels] parts must be positive, got ",
          parts);
}

TensorType infer(const Node& node, std::span<const TensorType> in) {
  require_rank("split_channels", "x", in[0], 2, 2);
  const int64_t parts = read(node.attrs).parts;
  require(channels(in[0]) % parts == 0, ErrorKind::invalid_argument,
          "[split_channels] channels must divide by parts, got ", channels(in[0]), " and ", parts);
  return {{in[0].shape[0], parts, channels(in[0]) / parts}, in[0].dtype};
}

}  // namespace

const Op op_split_channels = {
    .name = "split_channels",
    .inputs = {{"x"}},
    .check = check,
    .infer = infer,
    .lower = [](const Lowering& l) { return lower_regroup(l, l.output().w); },
};

}  // namespace sdcore
