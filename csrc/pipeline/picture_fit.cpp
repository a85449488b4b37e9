#include "pipeline/picture_fit.h"

#include <algorithm>
#include <cmath>

#include "pipeline/lanczos.h"

namespace sdcore {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr int64_t kColors = 3;
constexpr int kFraction = 22;  // bits after the point of a share, in Pillow's arithmetic for bytes
constexpr int64_t kOne = int64_t{1} << kFraction;

std::vector<int64_t> in_fixed_point(const std::vector<double>& shares) {
  std::vector<int64_t> fixed;
  for (const double share : shares) {
    // Pillow's rounding, whose addition rounds too.
    const double scaled = share * static_cast<double>(kOne);
    fixed.push_back(static_cast<int64_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
  }
  return fixed;
}

// Lines of `length` samples that lie `lines` apart, of which as many lie side by side, made longer
// or shorter; `blocks` of them follow one another.
Bytes resized(const uint8_t* from, int64_t blocks, int64_t length, int64_t lines, int64_t wanted) {
  if (length == wanted) return Bytes(from, from + blocks * length * lines);
  Bytes to(static_cast<size_t>(blocks * wanted * lines));
  std::vector<std::pair<int64_t, std::vector<int64_t>>> all;
  for (const auto& [first, shares] : lanczos_shares(length, wanted)) {
    all.emplace_back(first, in_fixed_point(shares));
  }
  uint8_t* out = to.data();
  for (int64_t block = 0; block < blocks; ++block) {
    for (const auto& [first, shares] : all) {
      const uint8_t* begin = from + (block * length + first) * lines;
      for (int64_t line = 0; line < lines; ++line) {
        int64_t sum = kOne / 2;
        for (size_t k = 0; k < shares.size(); ++k) {
          sum += begin[static_cast<int64_t>(k) * lines + line] * shares[k];
        }
        *out++ = static_cast<uint8_t>(std::clamp<int64_t>(sum >> kFraction, 0, 255));
      }
    }
  }
  return to;
}

Bytes resized(const PictureBytes& picture, int64_t colors, int64_t width, int64_t height) {
  const Bytes wide = resized(picture.samples, picture.height, picture.width, colors, width);
  return resized(wide.data(), 1, picture.height, width * colors, height);
}

}  // namespace

Picture fitted(const PictureBytes& picture, int64_t width, int64_t height) {
  const Bytes bytes = resized(picture, kColors, width, height);
  Picture result{width, height, std::vector<float>(bytes.size())};
  std::transform(bytes.begin(), bytes.end(), result.pixels.begin(),
                 [](uint8_t byte) { return static_cast<float>(byte) / 255.0f * 2.0f - 1.0f; });
  return result;
}

std::vector<float> fitted_mask(const PictureBytes& mask, int64_t width, int64_t height) {
  const Bytes bytes = resized(mask, 1, width, height);
  std::vector<float> result(bytes.size());
  std::transform(bytes.begin(), bytes.end(), result.begin(), [](uint8_t byte) {
    return static_cast<float>(byte) / 255.0f >= 0.5f ? 1.0f : 0.0f;
  });
  return result;
}

}  // namespace sdcore
