#include "graph/model_file.h"

#include "base/error.h"
#include "gguf/reader.h"
#include "gguf/writer.h"

namespace sdcore {
namespace {

constexpr std::string_view kGraphKey = "sdcore.graph.";

// The weights that the graph names, each in the shape that the graph gives it.
template <class Find>
std::map<std::string, Tensor, std::less<>> weights_of(const Graph& graph, ErrorKind missing,
                                                      const std::string& what, Find&& find) {
  std::map<std::string, Tensor, std::less<>> weights;
  for (const Value& value : graph.values) {
    if (value.kind != Value::Kind::weight) continue;
    const Tensor* tensor = find(value.name);
    require(tensor != nullptr, missing, "[model] ", what, ": tensor '", value.name, "' is missing");
    require(tensor->elements() == element_count(value.shape), missing, "[model] ", what,
            ": tensor '", value.name, "' is ", to_string(tensor->shape), ", and the network wants ",
            to_string(value.shape));
    weights.emplace(value.name, *tensor);
  }
  return weights;
}

template <class Map>
const Tensor* find_in(const Map& map, const std::string& name) {
  const auto found = map.find(name);
  return found == map.end() ? nullptr : &found->second;
}

// Rows in files are whole blocks. The graph knows the shape.
Tensor in_whole_blocks(const Tensor& tensor) {
  if (storage_bytes(tensor.type, tensor.shape) >= 0) return tensor;
  const int64_t block = type_info(tensor.type).block_size;
  return reshape(tensor, {tensor.elements() / block, block});
}

}  // namespace

void save_model(const std::filesystem::path& path, const ModelFile& model) {
  gguf::Metadata metadata = model.metadata;
  std::vector<gguf::NamedTensor> tensors;
  for (const auto& [name, stored] : model.graphs) {
    metadata.emplace_back(concat(kGraphKey, name), print_graph(stored.graph));
    weights_of(stored.graph, ErrorKind::invalid_argument, name,
               [&stored](const std::string& weight) { return find_in(stored.weights, weight); });
    for (const auto& [weight, tensor] : stored.weights) {
      tensors.push_back({name + "." + weight, in_whole_blocks(tensor)});
    }
  }
  gguf::write(path, metadata, tensors);
}

ModelFile load_model(const std::filesystem::path& path) {
  const gguf::File file = gguf::read(path);
  std::map<std::string, Tensor, std::less<>> tensors;
  for (const gguf::NamedTensor& named : file.tensors) tensors.emplace(named.name, named.tensor);
  ModelFile model;
  for (const auto& [key, value] : file.metadata) {
    if (!std::string_view(key).starts_with(kGraphKey)) {
      model.metadata.emplace_back(key, value);
      continue;
    }
    const std::string name = key.substr(kGraphKey.size());
    const auto* text = std::get_if<std::string>(&value);
    require(text != nullptr, ErrorKind::checkpoint, "[model] '", path.string(), "': ", key,
            " is not a string");
    StoredGraph stored{parse_graph(*text), {}};
    stored.weights = weights_of(
        stored.graph, ErrorKind::checkpoint, concat("'", path.string(), "' (", name, ")"),
        [&](const std::string& weight) { return find_in(tensors, concat(name, '.', weight)); });
    model.graphs.emplace(name, std::move(stored));
  }
  require(!model.graphs.empty(), ErrorKind::checkpoint, "[model] '", path.string(),
          "' holds no graph; DiffusionPipeline.export writes files that do");
  return model;
}

}  // namespace sdcore
