// What the programs do alike: draw one picture, and say how far it is and how it ended.
#pragma once

#include <cstdio>
#include <string>

#include "netpbm.h"
#include "sdcore/sdcore.hpp"

// Draws a picture with a model's file and writes it to `path`, a PPM file.
inline void draw(const std::string& model_path, sdc::GenerateParams params,
                 const std::string& path) {
  params.on_step = [](int done, int total) {
    std::fprintf(stderr, "\rstep %d of %d%s", done, total, done == total ? "\n" : "");
    return true;
  };
  const sdc::Model model(model_path);
  const sdc::Images images = model.generate(params);
  write_ppm(path, images[0]);
  std::fprintf(stderr, "%s, seed %llu\n", path.c_str(),
               static_cast<unsigned long long>(images[0].seed));
}
