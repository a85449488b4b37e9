// What a denoiser is told of an image beside latents, timestep and states of its text: a row of
// numbers for each further input that its graph has, by diffusers' names.
//
//   text_embeds, pooled_projections   what the text encoders pool
//   mask                              what attention adds to the scores of each token
//   time_ids                          height, width, 0, 0, height and width of the picture
//   resolution, aspect_ratio          its height and width, and what one is to the other
//   timestep_cond                     the guidance scale
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"
#include "pipeline/text_encoders.h"

namespace sdcore {

struct Facts {
  const TextStates& text;
  int64_t height, width;  // of the picture
  float guidance_scale;
  int64_t guidance_embedding;  // channels in which it is told
};

// The further inputs of a graph; throws Error(unsupported_model) for one that is not among those
// above.
std::vector<std::string> told_inputs(const Graph& denoiser);

std::vector<float> told(const std::string& input, const Facts& facts);

}  // namespace sdcore
