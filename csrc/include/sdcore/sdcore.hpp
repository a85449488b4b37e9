// sdcore from C++17: owners and exceptions over sdcore.h, and nothing else. Header only, so what
// throws is the program's own code and never the library.
//
//   sdc::Model model("model.gguf");
//   sdc::GenerateParams params("a lighthouse at dawn");
//   params.seed = 42;
//   sdc::Images images = model.generate(params);
#ifndef SDCORE_SDCORE_HPP
#define SDCORE_SDCORE_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "sdcore/sdcore.h"

namespace sdc {

class Error : public std::runtime_error {
 public:
  Error(sdc_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  sdc_status status() const noexcept { return status_; }

 private:
  sdc_status status_;
};

inline void check(sdc_status status) {
  if (status != SDC_OK) throw Error(status, sdc_last_error());
}

inline const char* version() noexcept { return sdc_version(); }
inline const char* cpu_features() noexcept { return sdc_cpu_features(); }
inline const char* cpu_isa() {
  const char* name = nullptr;
  check(sdc_cpu_isa(&name));
  return name;
}

// Pictures that own their pixels.
class Images {
 public:
  explicit Images(sdc_images* owned) : images_(owned, &sdc_images_free) {}

  std::size_t size() const noexcept { return sdc_images_count(images_.get()); }
  // The pixels live as long as this object.
  sdc_image operator[](std::size_t index) const {
    sdc_image image;
    check(sdc_images_get(images_.get(), index, &image));
    return image;
  }

 private:
  std::unique_ptr<sdc_images, decltype(&sdc_images_free)> images_;
};

// The outputs of a network.
class Tensors {
 public:
  explicit Tensors(sdc_tensors* owned) : tensors_(owned, &sdc_tensors_free) {}

  std::size_t size() const noexcept { return sdc_tensors_count(tensors_.get()); }
  // What it points to lives as long as this object.
  sdc_tensor operator[](std::size_t index) const {
    sdc_tensor tensor;
    check(sdc_tensors_get(tensors_.get(), index, &tensor));
    return tensor;
  }

 private:
  std::unique_ptr<sdc_tensors, decltype(&sdc_tensors_free)> tensors_;
};

// Samples of 8 bits, row after row from the top, no padding: three for each pixel of a picture, one
// for each of a mask.
struct Samples {
  std::int32_t width = 0, height = 0;
  std::vector<std::uint8_t> values;
};

// As sdc_generate_params, with text and pictures that are kept.
struct GenerateParams {
  GenerateParams() = default;
  explicit GenerateParams(std::string text) : prompt(std::move(text)) {}

  std::string prompt;
  std::optional<std::string> negative_prompt;
  std::int32_t width = SDC_DEFAULT, height = SDC_DEFAULT, steps = SDC_DEFAULT;
  float guidance_scale = SDC_DEFAULT;
  std::int64_t seed = SDC_DEFAULT;
  std::int32_t count = 1;
  // Called after each step; false stops the run, which throws Error with SDC_CANCELLED. What it
  // throws comes out of generate().
  std::function<bool(std::int32_t done, std::int32_t total)> on_step;
  // Asked again and again within each step; true stops the run likewise.
  std::function<bool()> should_stop;
  // A picture to begin from, and what of it to paint over: where the mask is 128 or more.
  std::optional<Samples> image, mask;
  double strength = 0.75;  // share of the steps that are made from it
};

// A model; copies share it. Safe to use from many threads.
class Model {
 public:
  // dtype "auto", "f32", "bf16", on GPUs "f16", or "" for what the file says; no threads: one a
  // processor; device "cpu", "cuda" or "cuda:1".
  explicit Model(const std::string& path, const std::string& dtype = "", std::int32_t threads = 0,
                 const std::string& device = "cpu") {
    sdc_model_options options;
    sdc_model_options_init(&options, sizeof options);
    options.dtype = dtype.empty() ? nullptr : dtype.c_str();
    options.device = device.c_str();
    options.threads = threads;
    sdc_model* opened = nullptr;
    check(sdc_model_open(path.c_str(), &options, &opened));
    model_.reset(opened, &sdc_model_free);
  }

  Images generate(const GenerateParams& params) const {
    Callbacks callbacks{params.on_step, params.should_stop, nullptr};
    sdc_generate_params raw;
    sdc_generate_params_init(&raw, sizeof raw);
    raw.prompt = params.prompt.c_str();
    raw.negative_prompt = params.negative_prompt ? params.negative_prompt->c_str() : nullptr;
    raw.width = params.width;
    raw.height = params.height;
    raw.steps = params.steps;
    raw.guidance_scale = params.guidance_scale;
    raw.seed = params.seed;
    raw.count = params.count;
    raw.user = &callbacks;
    if (params.on_step) raw.on_step = &Callbacks::step;
    if (params.should_stop) raw.should_stop = &Callbacks::stop;
    if (params.image) {
      raw.image = given(*params.image, 3, "image");
      raw.image_width = params.image->width;
      raw.image_height = params.image->height;
    }
    if (params.mask) {
      raw.mask = given(*params.mask, 1, "mask");
      raw.mask_width = params.mask->width;
      raw.mask_height = params.mask->height;
    }
    raw.strength = params.strength;
    sdc_images* images = nullptr;
    const sdc_status status = sdc_generate(model_.get(), &raw, &images);
    if (callbacks.thrown) std::rethrow_exception(callbacks.thrown);
    check(status);
    return Images(images);
  }

  // Throws where the file holds networks alone.
  sdc_model_info info() const {
    sdc_model_info info;
    check(sdc_model_info_get(model_.get(), &info, sizeof info));
    return info;
  }

  // The numbers of steps that it was exported for, the smallest first.
  std::vector<std::int32_t> steps() const {
    std::vector<std::int32_t> all(sdc_model_steps_count(model_.get()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      check(sdc_model_steps_get(model_.get(), i, &all[i]));
    }
    return all;
  }

  // The names that run() takes.
  std::vector<std::string> networks() const {
    std::vector<std::string> all(sdc_model_networks_count(model_.get()));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const char* name = nullptr;
      check(sdc_model_networks_get(model_.get(), i, &name));
      all[i] = name;
    }
    return all;
  }

  Tensors run(const std::string& network, const std::vector<sdc_tensor>& inputs) const {
    sdc_tensors* outputs = nullptr;
    check(sdc_network_run(model_.get(), network.c_str(), inputs.data(), inputs.size(), &outputs));
    return Tensors(outputs);
  }

 private:
  // Checked here, for the library cannot see how long an array is.
  static const std::uint8_t* given(const Samples& samples, std::size_t channels, const char* name) {
    const auto side = [](std::int32_t n) { return static_cast<std::size_t>(n > 0 ? n : 0); };
    const std::size_t wanted = channels * side(samples.width) * side(samples.height);
    if (wanted > 0 && samples.values.size() == wanted) return samples.values.data();
    const auto text = [](auto number) { return std::to_string(number); };
    throw Error(SDC_INVALID_ARGUMENT,
                "[generate] " + std::string(name) + " of " + text(samples.width) + " x " +
                    text(samples.height) + " pixels must have " + text(channels) +
                    " samples for each, got " + text(samples.values.size()) + " in all");
  }

  // Carries what a callback throws around the library.
  struct Callbacks {
    const std::function<bool(std::int32_t, std::int32_t)>& on_step;
    const std::function<bool()>& should_stop;
    std::exception_ptr thrown;

    static int step(std::int32_t done, std::int32_t total, void* user) noexcept {
      auto& self = *static_cast<Callbacks*>(user);
      return self.stops([&] { return !self.on_step(done, total); });
    }
    static int stop(void* user) noexcept {
      auto& self = *static_cast<Callbacks*>(user);
      return self.stops([&] { return self.should_stop(); });
    }
    template <class Ask>
    int stops(Ask ask) noexcept {
      try {
        return ask() ? 1 : 0;
      } catch (...) {
        thrown = std::current_exception();
        return 1;
      }
    }
  };

  std::shared_ptr<sdc_model> model_;
};

}  // namespace sdc

#endif  // SDCORE_SDCORE_HPP
