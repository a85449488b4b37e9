#include "kernels/elementwise/generic.h"
#include "simd/avx2.h"

namespace sdcore::elementwise {

const Kernel kernel_avx2 = Loops<simd::Avx2>::kernel(Isa::avx2);

}  // namespace sdcore::elementwise
