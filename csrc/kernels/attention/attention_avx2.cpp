#include "kernels/attention/generic.h"
#include "kernels/attention/integers.h"
#include "simd/avx2.h"

namespace sdcore::attention_kernels {
namespace {

struct Vector : simd::Avx2 {};

}  // namespace

const Kernel kernel_avx2_integers = Integers<Vector, 4, 3, 128>::kernel(Isa::avx2, 32);
const Kernel kernel_avx2 = Streaming<Vector>::kernel(Isa::avx2);

}  // namespace sdcore::attention_kernels
