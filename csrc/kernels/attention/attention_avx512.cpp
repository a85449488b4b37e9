#include "kernels/attention/generic.h"
#include "simd/avx512.h"

namespace sdcore::attention_kernels {

const Kernel kernel_avx512 = Streaming<simd::Avx512>::kernel(Isa::avx512);

}  // namespace sdcore::attention_kernels
