#include "kernels/attention/generic.h"
#include "simd/scalar.h"

namespace sdcore::attention_kernels {

const Kernel kernel_generic = Streaming<simd::Scalar>::kernel(Isa::generic);

}  // namespace sdcore::attention_kernels
