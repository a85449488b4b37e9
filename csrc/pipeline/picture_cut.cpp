#include "pipeline/picture_cut.h"

#include <algorithm>

#include "pipeline/lanczos.h"

namespace sdcore {
namespace {

constexpr int64_t kColors = 3;

// Lines of `length` values that lie `stride` apart, of which `lines` lie side by side, made longer
// or shorter; `blocks` of them follow one another.
std::vector<float> resized(const std::vector<float>& from, int64_t blocks, int64_t length,
                           int64_t lines, int64_t wanted) {
  if (length == wanted) return from;
  const std::vector<Shares> all = lanczos_shares(length, wanted);
  std::vector<float> to(static_cast<size_t>(blocks * wanted * lines));
  float* out = to.data();
  for (int64_t block = 0; block < blocks; ++block) {
    for (const auto& [first, shares] : all) {
      const float* begin = from.data() + (block * length + first) * lines;
      for (int64_t line = 0; line < lines; ++line) {
        double sum = 0.0;
        for (size_t k = 0; k < shares.size(); ++k) {
          sum += static_cast<double>(begin[static_cast<int64_t>(k) * lines + line]) * shares[k];
        }
        *out++ = static_cast<float>(sum);
      }
    }
  }
  return to;
}

}  // namespace

Picture cut_to(const Picture& drawn, int64_t width, int64_t height) {
  const auto ratio = [](int64_t a, int64_t b) {
    return static_cast<double>(a) / static_cast<double>(b);
  };
  const double times = std::max(ratio(width, drawn.width), ratio(height, drawn.height));
  const auto covering = [times](int64_t side, int64_t least) {
    return std::max(static_cast<int64_t>(static_cast<double>(side) * times), least);
  };
  const int64_t w = covering(drawn.width, width), h = covering(drawn.height, height);
  const std::vector<float> wide = resized(drawn.pixels, drawn.height, drawn.width, kColors, w);
  const std::vector<float> whole = resized(wide, 1, drawn.height, w * kColors, h);
  const int64_t left = (w - width) / 2, top = (h - height) / 2;
  Picture cut{width, height, {}};
  for (int64_t y = top; y < top + height; ++y) {
    const auto row = whole.begin() + (y * w + left) * kColors;
    cut.pixels.insert(cut.pixels.end(), row, row + width * kColors);
  }
  return cut;
}

}  // namespace sdcore
