// prelu(x, slope) -> x where it is above 0, else x * slope; slope is as x, or one pixel or one
// image repeated
#include "graph/ops/binary.h"

namespace sdcore {

const Op op_prelu = {
    .name = "prelu",
    .inputs = {{"x"}, {"slope"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("prelu", attrs); },
    .infer = infer_binary,
    .lower = lower_binary<BinaryOp::prelu>,
    .writes_halo = true,
};

}  // namespace sdcore
