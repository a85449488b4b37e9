// Draws a picture from a prompt: txt2img model.gguf "a lighthouse at dawn" [picture.ppm] [options].
// The model is a file that Python's DiffusionPipeline.export wrote; no Python is needed here.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "draw.h"
#include "sdcore/sdcore.hpp"

namespace {

struct Arguments {
  std::vector<std::string> words;  // model, prompt, picture
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
      case 'n':
        params.negative_prompt = value;
        break;
      case 'W':
        params.width = std::atoi(value);
        break;
      case 'H':
        params.height = std::atoi(value);
        break;
      case 't':
        params.steps = std::atoi(value);
        break;
      case 'g':
        params.guidance_scale = std::strtof(value, nullptr);
        break;
      case 's':
        params.seed = std::atoll(value);
        break;
      default:
        throw std::invalid_argument("unknown option " + flag);
    }
  }
  if (arguments.words.size() < 2 || arguments.words.size() > 3) {
    throw std::invalid_argument(
        "usage: txt2img MODEL.gguf PROMPT [PICTURE.ppm] [-n NEGATIVE] [-W WIDTH] [-H HEIGHT] "
        "[-t STEPS] [-g GUIDANCE] [-s SEED]");
  }
  params.prompt = arguments.words[1];
  return arguments;
}

}  // namespace

int main(int argc, char** argv) try {
  const auto [words, params] = parse(argc, argv);
  draw(words[0], params, words.size() > 2 ? words[2] : "picture.ppm");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
