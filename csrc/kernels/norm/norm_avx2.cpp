#include "kernels/norm/generic.h"
#include "simd/avx2.h"

namespace sdcore::norm {

const Kernel kernel_avx2 = Loops<simd::Avx2>::kernel(Isa::avx2);

}  // namespace sdcore::norm
