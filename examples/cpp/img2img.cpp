// Draws over a picture: img2img model.gguf photo.ppm "an oil painting" [picture.ppm] [options].
// With a mask only what is white in it: -m mask.pgm. The model is a file that Python's
// DiffusionPipeline.export wrote; no Python is needed here.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "draw.h"
#include "netpbm.h"
#include "sdcore/sdcore.hpp"

namespace {

struct Arguments {
  std::vector<std::string> words;  // model, photo, prompt, picture
  sdc::GenerateParams params;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  sdc::GenerateParams& params = arguments.params;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag.size() != 2 || flag[0] != '-') {
      arguments.words.push_back(flag);
      continue;
    }
    const char* value = i + 1 < argc ? argv[++i] : "";
    switch (flag[1]) {
      case 'm':
        params.mask = read_netpbm(value, false);
        break;
      case 'r':
        params.strength = std::atof(value);
        break;
      case 'n':
        params.negative_prompt = value;
        break;
      case 't':
        params.steps = std::atoi(value);
        break;
      case 's':
        params.seed = std::atoll(value);
        break;
      default:
        throw std::invalid_argument("unknown option " + flag);
    }
  }
  if (arguments.words.size() < 3 || arguments.words.size() > 4) {
    throw std::invalid_argument(
        "usage: img2img MODEL.gguf PHOTO.ppm PROMPT [PICTURE.ppm] [-m MASK.pgm] [-r STRENGTH] "
        "[-n NEGATIVE] [-t STEPS] [-s SEED]");
  }
  params.image = read_netpbm(arguments.words[1], true);
  params.prompt = arguments.words[2];
  return arguments;
}

}  // namespace

int main(int argc, char** argv) try {
  const auto [words, params] = parse(argc, argv);
  draw(words[0], params, words.size() > 3 ? words[3] : "picture.ppm");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
