// What users have, in the size that is drawn, as fitted and fitted_mask in
// python/sdcore/pictures/fit.py make it.
#pragma once

#include "pipeline/picture.h"

namespace sdcore {

// Samples of 8 bits that stay the caller's: [height, width, 3], of a mask [height, width].
struct PictureBytes {
  int64_t width = 0, height = 0;
  const uint8_t* samples = nullptr;
};

// In [-1, 1]. Lanczos, in Pillow's arithmetic for bytes.
Picture fitted(const PictureBytes& picture, int64_t width, int64_t height);

// [height, width]: 1 where the mask is white, 0 where it is black.
std::vector<float> fitted_mask(const PictureBytes& mask, int64_t width, int64_t height);

}  // namespace sdcore
