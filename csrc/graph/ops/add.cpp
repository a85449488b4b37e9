// add(a, b) -> a's sizes; b is as a, or one pixel or one image repeated
#include "graph/ops/binary.h"

namespace sdcore {

const Op op_add = {
    .name = "add",
    .inputs = {{"a"}, {"b"}},
    .check = [](const Attrs& attrs) { check_attrs<NoAttrs>("add", attrs); },
    .infer = infer_binary,
    .lower = lower_binary<BinaryOp::add>,
    .writes_halo = true,
};

}  // namespace sdcore
