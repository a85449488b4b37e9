// A picture drawn at one size and wanted at another, as cut_to in
// python/sdcore/pipelines/pictures.py makes it.
#pragma once

#include "pipeline/picture.h"

namespace sdcore {

// Shrunk or enlarged until it covers this size, and its middle. Lanczos, in Pillow's arithmetic.
Picture cut_to(const Picture& drawn, int64_t width, int64_t height);

}  // namespace sdcore
