// The simplest files of pictures there are: PPM of colors, PGM of greys; 8 bits a sample.
#pragma once

#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

#include "sdcore/sdcore.hpp"

// A "P6" file is a picture, a "P5" file a mask.
inline sdc::Samples read_netpbm(const std::string& path, bool color) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read '" + path + "'");
  const std::string wanted = color ? "P6" : "P5";
  std::string kind;
  sdc::Samples samples;
  int most = 0;
  const auto skip_comments = [&file] {
    while ((file >> std::ws).peek() == '#') {
      file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
  };
  file >> kind;
  for (int* number : {&samples.width, &samples.height, &most}) {
    skip_comments();
    file >> *number;
  }
  const bool sound = file && kind == wanted && most == 255 && samples.width > 0 &&
                     samples.width < 1 << 15 && samples.height > 0 && samples.height < 1 << 15;
  if (!sound) throw std::runtime_error("'" + path + "' is no " + wanted + " file of 8 bits");
  file.get();  // the one space before the samples
  const auto size = static_cast<std::streamsize>(samples.width) * samples.height * (color ? 3 : 1);
  samples.values.resize(static_cast<std::size_t>(size));
  if (!file.read(reinterpret_cast<char*>(samples.values.data()), size)) {
    throw std::runtime_error("'" + path + "' ends too early");
  }
  return samples;
}

inline void write_ppm(const std::string& path, const sdc_image& image) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << image.width << ' ' << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(image.pixels),
             std::streamsize{3} * image.width * image.height);
  if (!file.flush()) throw std::runtime_error("cannot write '" + path + "'");
}
