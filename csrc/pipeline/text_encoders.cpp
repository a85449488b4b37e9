#include "pipeline/text_encoders.h"

#include <algorithm>

#include "base/error.h"

namespace sdcore {
namespace {

using Rows = std::vector<PromptRow>;

const FloatArray& output_of(const std::map<std::string, FloatArray>& outputs, const char* name,
                            const TextEncoderSettings& encoder, size_t rank, int64_t rows) {
  const auto found = outputs.find(name);
  require(found != outputs.end() && found->second.shape.size() == rank &&
              found->second.shape[0] == rows,
          ErrorKind::unsupported_model, "[generate] the ", encoder.network, " gives no ", name,
          " of rank ", rank, " for each of ", rows, " texts");
  return found->second;
}

bool has_input(const Network& network, std::string_view name) {
  const auto& values = network.graph().values;
  return std::any_of(values.begin(), values.end(), [name](const Value& value) {
    return value.kind == Value::Kind::input && value.name == name;
  });
}

// Where a text ends: at the first of these ids, or at the highest one.
int32_t end_of(const std::vector<int32_t>& ids, int32_t end) {
  const auto at = end == TextEncoderSettings::kHighest ? std::max_element(ids.begin(), ids.end())
                                                       : std::find(ids.begin(), ids.end(), end);
  return at == ids.end() ? 0 : static_cast<int32_t>(at - ids.begin());
}

// Ids that differ, each once, and where those of a row are.
struct UniqueIds {
  std::vector<std::vector<int32_t>> ids;

  size_t place(const std::vector<int32_t>& row) const {
    return static_cast<size_t>(std::find(ids.begin(), ids.end(), row) - ids.begin());
  }
  void add(const std::vector<int32_t>& row) {
    if (place(row) == ids.size()) ids.push_back(row);
  }
};

// The states of another encoder beside those of the ones before.
void put_beside(TextStates& all, TextStates more) {
  require(all.channels == 0 || all.tokens == more.tokens, ErrorKind::unsupported_model,
          "[generate] one text encoder gives ", all.tokens, " states of a text, and another ",
          more.tokens);
  std::vector<float> both;
  both.reserve(all.hidden.size() + more.hidden.size());
  for (int64_t t = 0; t < more.tokens; ++t) {
    for (const TextStates* of : {&std::as_const(all), &std::as_const(more)}) {
      const auto begin = of->hidden.begin() + t * of->channels;
      both.insert(both.end(), begin, begin + of->channels);
    }
  }
  all = {more.tokens, all.channels + more.channels, std::move(both), std::move(more.pooled)};
}

}  // namespace

TextEncoders::TextEncoders(std::vector<std::shared_ptr<Network>> networks, TextSettings settings)
    : networks_(std::move(networks)), settings_(std::move(settings)) {}

std::vector<Rows> TextEncoders::rows(const std::string& text) const {
  const auto rows_for = [](const std::string& prompt, const TextEncoderSettings& encoder) {
    return prompt_rows(prompt, *encoder.tokenizer, encoder.tokens, encoder.padding);
  };
  std::vector<Rows> rows;
  size_t most = 0;
  for (const TextEncoderSettings& encoder : settings_.encoders) {
    rows.push_back(rows_for(text, encoder));
    most = std::max(most, rows.back().size());
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].size() < most) rows[i].resize(most, rows_for("", settings_.encoders[i])[0]);
  }
  return rows;
}

std::vector<TextStates> TextEncoders::encode(const std::vector<std::string>& texts) const {
  std::vector<std::vector<Rows>> by_encoder(settings_.encoders.size());
  for (const std::string& text : texts) {
    std::vector<Rows> of_text = rows(text);
    for (size_t i = 0; i < of_text.size(); ++i) by_encoder[i].push_back(std::move(of_text[i]));
  }
  std::vector<TextStates> states(texts.size());
  for (size_t i = 0; i < by_encoder.size(); ++i) {
    std::vector<TextStates> made = encode_by(i, by_encoder[i]);
    for (size_t t = 0; t < made.size(); ++t) put_beside(states[t], std::move(made[t]));
  }
  return states;
}

std::vector<TextStates> TextEncoders::encode_by(size_t at, const std::vector<Rows>& texts) const {
  const TextEncoderSettings& encoder = settings_.encoders[at];
  Network& network = *networks_[at];
  UniqueIds unique;
  for (const Rows& rows : texts) {
    for (const PromptRow& row : rows) unique.add(row.ids);
  }
  std::vector<int32_t> ids, ends;
  for (const auto& row : unique.ids) {
    ids.insert(ids.end(), row.begin(), row.end());
    ends.push_back(end_of(row, encoder.end));
  }
  const auto count = static_cast<int64_t>(unique.ids.size());
  const bool pools = has_input(network, "end");
  NetworkInputs inputs;
  inputs.add("input_ids", {count, encoder.tokens}, ids.data());
  if (pools) inputs.add("end", {count}, ends.data());
  const auto outputs = run_network(network, inputs);
  const FloatArray& hidden = output_of(outputs, "last_hidden_state", encoder, 3, count);
  const int64_t size = hidden.shape[1] * hidden.shape[2];
  require(hidden.shape[1] == encoder.tokens, ErrorKind::unsupported_model, "[generate] the ",
          encoder.network, " gives ", hidden.shape[1], " states of ", encoder.tokens, " tokens");

  std::vector<TextStates> made;
  for (const Rows& rows : texts) {
    TextStates states{0, hidden.shape[2], {}, {}};
    for (const PromptRow& row : rows) {
      const auto from = hidden.values.begin() + static_cast<int64_t>(unique.place(row.ids)) * size;
      const auto to = states.hidden.insert(states.hidden.end(), from, from + size);
      weigh_states({to, states.hidden.end()}, row.weights);
      states.tokens += encoder.tokens;
    }
    if (pools) {
      const FloatArray& pooled = output_of(outputs, "pooled", encoder, 2, count);
      const auto from =
          pooled.values.begin() + static_cast<int64_t>(unique.place(rows[0].ids)) * pooled.shape[1];
      states.pooled.assign(from, from + pooled.shape[1]);
    }
    made.push_back(std::move(states));
  }
  return made;
}

}  // namespace sdcore
