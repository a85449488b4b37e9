// Sinusoids of time steps: a few hundred numbers an image, so portable code alone.
#include <cmath>

#include "base/error.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/elementwise/gpu.h"

namespace sdcore {
namespace {

void store(const View& out, int64_t image, int64_t at, int64_t channel, double value) {
  const float rounded = static_cast<float>(value);
  if (out.dtype == DType::bf16) {
    out.at<bf16>(image, 0, at)[channel] = to_bf16(rounded);
  } else {
    out.at<float>(image, 0, at)[channel] = rounded;
  }
}

template <class F>
void for_each_number(const View& in, F&& f) {
  for (int64_t image = 0; image < in.n; ++image) {
    for (int64_t at = 0; at < in.w; ++at) f(image, at);
  }
}

}  // namespace

void timestep_embedding(const TimestepEmbeddingArgs& args, const KernelContext& context) {
  const View &in = args.in, &out = args.out;
  require(in.dtype == DType::f32 && in.h == 1 && in.c == 1, ErrorKind::invalid_argument,
          "[timestep_embedding] in must be a row of f32 an image");
  require(out.dtype != DType::i32 && out.n == in.n && out.h == 1 && out.w == in.w,
          ErrorKind::invalid_argument, "[timestep_embedding] out must be one vector a number");
  const int64_t half = out.c / 2;
  const float range = static_cast<float>(half) - args.downscale_freq_shift;
  require(half == 0 || range > 0, ErrorKind::invalid_argument,
          "[timestep_embedding] downscale_freq_shift ", args.downscale_freq_shift,
          " leaves nothing of ", half, " frequencies");
  if (context.device) {
    return elementwise::gpu_kernel(*context.device).timestep_embedding(args, *context.device);
  }
  const float log_period = static_cast<float>(-std::log(static_cast<double>(args.max_period)));
  const int64_t sin_at = args.flip_sin_to_cos ? half : 0;
  const int64_t cos_at = half - sin_at;
  for (int64_t i = 0; i < half; ++i) {
    // Exponent, frequency and angle are rounded to float where the reference rounds them: at
    // t = 999 the last bit of a frequency moves the sine by 6e-5.
    const float exponent = log_period * static_cast<float>(i) / range;
    const float frequency = static_cast<float>(std::exp(static_cast<double>(exponent)));
    for_each_number(in, [&](int64_t image, int64_t at) {
      const float angle = *in.at<const float>(image, 0, at) * frequency;
      store(out, image, at, sin_at + i, std::sin(static_cast<double>(angle)));
      store(out, image, at, cos_at + i, std::cos(static_cast<double>(angle)));
    });
  }
  if (out.c % 2 != 0) {
    for_each_number(in, [&](int64_t image, int64_t at) { store(out, image, at, out.c - 1, 0.0); });
  }
}

}  // namespace sdcore
