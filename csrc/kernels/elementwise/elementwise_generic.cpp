#include "kernels/elementwise/generic.h"
#include "simd/scalar.h"

namespace sdcore::elementwise {

const Kernel kernel_generic = Loops<simd::Scalar>::kernel(Isa::generic);

}  // namespace sdcore::elementwise
