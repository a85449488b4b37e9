#include "kernels/norm/generic.h"
#include "simd/scalar.h"

namespace sdcore::norm {

const Kernel kernel_generic = Loops<simd::Scalar>::kernel(Isa::generic);

}  // namespace sdcore::norm
