#include "kernels/attention/generic.h"
#include "simd/avx2.h"

namespace sdcore::attention_kernels {

const Kernel kernel_avx2 = Streaming<simd::Avx2>::kernel(Isa::avx2);

}  // namespace sdcore::attention_kernels
