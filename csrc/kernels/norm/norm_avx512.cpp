#include "kernels/norm/generic.h"
#include "simd/avx512.h"

namespace sdcore::norm {

const Kernel kernel_avx512 = Loops<simd::Avx512>::kernel(Isa::avx512);

}  // namespace sdcore::norm
