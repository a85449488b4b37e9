// rms_norm(x [..., c], weight [size]) -> the same sizes, each run of `size` channels divided by its
// root mean square
#include "graph/ops/common.h"
#include "kernels/norm/norm.h"

namespace sdcore {
namespace {

struct RmsNormAttrs {
  double eps = 1e-6;

  template <class F>
  void fields(F&& f) {
    f("eps", eps);
  }
};

TensorType infer(const Node&, std::span<const TensorType> in) {
  require_rank("rms_norm", "x", in[0], 2, 4);
  require_rank("rms_norm", "weight", in[1], 1, 1);
  require(channels(in[0]) % channels(in[1]) == 0, ErrorKind::invalid_argument,
          "[rms_norm] channels must divide by the weight's size, got ", to_string(in[0].shape),
          " and ", to_string(in[1].shape));
  return in[0];
}

Step lower(const Lowering& l) {
  RmsNormArgs args;
  args.weight = l.vector(1);
  args.size = l.weight_shape(1)[0];
  args.eps = static_cast<float>(read_attrs<RmsNormAttrs>("rms_norm", l.attrs()).eps);
  return [args, in = l.slot(0), out = l.output_slot()](const Run& run) {
    RmsNormArgs now = args;
    now.in = run.views[in];
    now.out = run.views[out];
    rms_norm(now, run.kernels);
  };
}

}  // namespace

const Op op_rms_norm = {
    .name = "rms_norm",
    .inputs = {{"x"}, {"weight", Op::Input::weight}},
    .check = [](const Attrs& attrs) { check_attrs<RmsNormAttrs>("rms_norm", attrs); },
    .infer = infer,
    .lower = lower,
};

}  // namespace sdcore
