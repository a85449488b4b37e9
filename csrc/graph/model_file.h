// A GGUF file that holds whole networks: each graph as text in the metadata, its weights as
// tensors. It needs no Python to run, and gives the same result bit for bit.
//
//   sdcore.graph.<name>   the text of a graph
//   <name>.<weight>       a tensor of it
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "gguf/format.h"
#include "graph/graph.h"

namespace sdcore {

struct StoredGraph {
  Graph graph;
  // By the graph's names. Others are saved too, for who reads them in a graph of another kind.
  std::map<std::string, Tensor, std::less<>> weights;
};

struct ModelFile {
  std::map<std::string, StoredGraph> graphs;
  gguf::Metadata metadata;  // everything else in the file
};

// Throws Error(invalid_argument) when a weight that a graph names is not given, Error(io) when the
// file cannot be written; a failure leaves no file behind.
void save_model(const std::filesystem::path& path, const ModelFile& model);

// Throws Error(checkpoint) when the file is damaged, holds no graph, or lacks a weight of one.
ModelFile load_model(const std::filesystem::path& path);

}  // namespace sdcore
