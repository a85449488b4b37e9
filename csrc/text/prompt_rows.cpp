#include "text/prompt_rows.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "text/emphasis.h"

namespace sdcore {
namespace {

// A chunk that is full goes back to its last comma, if that is not further than this.
constexpr size_t kBacktrack = 20;

struct Chunk {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::optional<size_t> comma;  // the last one's place

  void add(const TokenGroup& group) {
    ids.insert(ids.end(), group.ids.begin(), group.ids.end());
    weights.insert(weights.end(), group.ids.size(), static_cast<float>(group.weight));
  }

  // Takes off what lies behind.
  Chunk cut(size_t at) {
    const auto place = static_cast<std::ptrdiff_t>(at);
    Chunk rest{{ids.begin() + place, ids.end()}, {weights.begin() + place, weights.end()}, {}};
    ids.resize(at);
    weights.resize(at);
    return rest;
  }
};

std::vector<Chunk> cut_chunks(std::span<const TokenGroup> groups, int32_t comma, size_t room) {
  std::vector<Chunk> done;
  Chunk chunk;
  const auto finish = [&](Chunk next) {
    done.push_back(std::move(chunk));
    chunk = std::move(next);
  };
  int64_t section = 0;
  for (const TokenGroup& group : groups) {
    for (; section < group.section; ++section) finish({});
    if (group.ids.empty()) continue;
    if (group.ids.size() == 1 && group.ids[0] == comma) {
      chunk.comma = chunk.ids.size();
    } else if (chunk.ids.size() == room && chunk.comma && room - *chunk.comma <= kBacktrack) {
      finish(chunk.cut(*chunk.comma + 1));
    }
    if (chunk.ids.size() + group.ids.size() > room) finish({});
    chunk.add(group);
  }
  if (!chunk.ids.empty() || done.empty()) finish({});
  return done;
}

}  // namespace

std::vector<PromptRow> cut_rows(std::span<const TokenGroup> groups, const ClipTokenizer& tokenizer,
                                int64_t length, int32_t padding) {
  require(length > 2, ErrorKind::invalid_argument,
          "[clip_bpe] a row must leave room between its two end tokens, got ", length);
  const auto size = static_cast<size_t>(length), room = size - 2;
  for (const TokenGroup& group : groups) {
    require(group.ids.size() <= room, ErrorKind::invalid_argument, "[clip_bpe] ", group.ids.size(),
            " tokens that stay together do not fit between the ends of ", length);
  }
  std::vector<PromptRow> rows;
  for (const Chunk& chunk : cut_chunks(groups, tokenizer.comma(), room)) {
    PromptRow row{std::vector<int32_t>(size, padding), std::vector<float>(size, 1.0f)};
    row.ids[0] = tokenizer.specials().bos;
    std::copy(chunk.ids.begin(), chunk.ids.end(), row.ids.begin() + 1);
    row.ids[chunk.ids.size() + 1] = tokenizer.specials().eos;
    std::copy(chunk.weights.begin(), chunk.weights.end(), row.weights.begin() + 1);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<PromptRow> prompt_rows(std::string_view prompt, const ClipTokenizer& tokenizer,
                                   int64_t length, int32_t padding) {
  std::vector<TokenGroup> groups;
  for (const PromptPiece& piece : parse_emphasis(prompt)) {
    groups.push_back({{}, piece.weight, piece.section});
    for (const int32_t id : tokenizer.encode(piece.text)) {
      groups.push_back({{id}, piece.weight, piece.section});
    }
  }
  return cut_rows(groups, tokenizer, length, padding);
}

void weigh_states(std::span<float> states, std::span<const float> weights) {
  if (std::all_of(weights.begin(), weights.end(), [](float w) { return w == 1.0f; })) return;
  const size_t width = states.size() / weights.size();
  const double before = std::accumulate(states.begin(), states.end(), 0.0);
  for (size_t i = 0; i < states.size(); ++i) states[i] *= weights[i / width];
  const double after = std::accumulate(states.begin(), states.end(), 0.0);
  if (after == 0) return;
  const auto factor = static_cast<float>(before / after);
  for (float& state : states) state *= factor;
}

}  // namespace sdcore
