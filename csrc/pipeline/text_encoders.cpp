#include "pipeline/text_encoders.h"

#include <algorithm>

#include "base/error.h"

namespace sdcore {
namespace {

using Rows = std::vector<PromptRow>;

// Far below any score, and still a number in every type, as models/base.py has it.
constexpr float kHidden = -10000.0f;

const FloatArray& output_of(const std::map<std::string, FloatArray>& outputs, const char* name,
                            const std::string& network, size_t rank, int64_t rows) {
  const auto found = outputs.find(name);
  require(found != outputs.end() && found->second.shape.size() == rank &&
              found->second.shape[0] == rows,
          ErrorKind::unsupported_model, "[generate] the ", network, " gives no ", name, " of rank ",
          rank, " for each of ", rows, " texts");
  return found->second;
}

bool has_weights(const CaptionRow& made) {
  const auto& weights = made.row.weights;
  return std::any_of(weights.begin(), weights.end(), [](float weight) { return weight != 1.0f; });
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

void append(std::vector<float>& to, const std::vector<float>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

// The states of another encoder beside those of the ones before.
void put_beside(TextStates& all, const TextStates& more) {
  require(all.channels == 0 || all.tokens == more.tokens, ErrorKind::unsupported_model,
          "[generate] one text encoder gives ", all.tokens, " states of a text, and another ",
          more.tokens);
  std::vector<float> both;
  both.reserve(all.hidden.size() + more.hidden.size());
  for (int64_t t = 0; t < more.tokens; ++t) {
    for (const TextStates* of : {&std::as_const(all), &more}) {
      const auto begin = of->hidden.begin() + t * of->channels;
      both.insert(both.end(), begin, begin + of->channels);
    }
  }
  all.tokens = more.tokens;
  all.channels += more.channels;
  all.hidden = std::move(both);
  append(all.pooled, more.pooled);
}

// Those that follow in the sequence.
void put_after(TextStates& all, const TextStates& more) {
  require(all.tokens == 0 || all.channels == more.channels, ErrorKind::unsupported_model,
          "[generate] T5 gives ", more.channels, " channels, and the CLIPs with their zeros have ",
          all.channels);
  all.tokens += more.tokens;
  all.channels = more.channels;
  append(all.hidden, more.hidden);
  append(all.mask, more.mask);
}

void fill_up(TextStates& states, int64_t channels) {
  require(states.channels <= channels, ErrorKind::unsupported_model, "[generate] the CLIPs give ",
          states.channels, " channels, and the file says ", channels, " with their zeros");
  const int64_t zeros = channels - states.channels;
  put_beside(states, {states.tokens,
                      zeros,
                      std::vector<float>(static_cast<size_t>(states.tokens * zeros)),
                      {},
                      {}});
}

}  // namespace

TextEncoders::TextEncoders(Networks networks, TextSettings settings)
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

std::vector<TextStates> TextEncoders::encode(const std::vector<std::string>& texts,
                                             const Observer& observer) const {
  std::vector<std::vector<Rows>> by_encoder(settings_.encoders.size());
  for (const std::string& text : texts) {
    std::vector<Rows> of_text = rows(text);
    for (size_t i = 0; i < of_text.size(); ++i) by_encoder[i].push_back(std::move(of_text[i]));
  }
  std::vector<TextStates> states(texts.size());
  for (size_t i = 0; i < by_encoder.size(); ++i) {
    const std::vector<TextStates> made = encode_by(i, by_encoder[i], observer);
    for (size_t t = 0; t < made.size(); ++t) put_beside(states[t], made[t]);
  }
  for (TextStates& one : states) {
    one.mask.resize(static_cast<size_t>(one.tokens));
    if (settings_.channels > 0) fill_up(one, settings_.channels);
  }
  if (settings_.captions.tokens > 0) {
    const std::vector<TextStates> made = encode_captions(texts, observer);
    for (size_t t = 0; t < made.size(); ++t) put_after(states[t], made[t]);
  }
  return states;
}

std::vector<TextStates> TextEncoders::encode_by(size_t at, const std::vector<Rows>& texts,
                                                const Observer& observer) const {
  const TextEncoderSettings& encoder = settings_.encoders[at];
  Network& network = *networks_.clips[at];
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
  const bool pools = input_names(network.graph()).contains("end");
  NetworkInputs inputs;
  inputs.add("input_ids", {count, encoder.tokens}, ids.data());
  if (pools) inputs.add("end", {count}, ends.data());
  const auto outputs = run_network(network, inputs, observer);
  const FloatArray& hidden = output_of(outputs, "last_hidden_state", encoder.network, 3, count);
  const int64_t size = hidden.shape[1] * hidden.shape[2];
  require(hidden.shape[1] == encoder.tokens, ErrorKind::unsupported_model, "[generate] the ",
          encoder.network, " gives ", hidden.shape[1], " states of ", encoder.tokens, " tokens");

  std::vector<TextStates> made;
  for (const Rows& rows : texts) {
    TextStates states{0, hidden.shape[2], {}, {}, {}};
    for (const PromptRow& row : rows) {
      const auto from = hidden.values.begin() + static_cast<int64_t>(unique.place(row.ids)) * size;
      const auto to = states.hidden.insert(states.hidden.end(), from, from + size);
      weigh_states({to, states.hidden.end()}, row.weights);
      states.tokens += encoder.tokens;
    }
    if (pools) {
      const FloatArray& pooled = output_of(outputs, "pooled", encoder.network, 2, count);
      const auto from =
          pooled.values.begin() + static_cast<int64_t>(unique.place(rows[0].ids)) * pooled.shape[1];
      states.pooled.assign(from, from + pooled.shape[1]);
    }
    made.push_back(std::move(states));
  }
  return made;
}

std::vector<TextStates> TextEncoders::encode_captions(const std::vector<std::string>& texts,
                                                      const Observer& observer) const {
  const auto& [tokens, name, tokenizer, masked, cleaned] = settings_.captions;
  const auto length = static_cast<size_t>(tokens);
  if (!networks_.captions) {
    const auto size = length * static_cast<size_t>(settings_.channels);
    return {texts.size(),
            {tokens, settings_.channels, std::vector<float>(size), {}, std::vector<float>(length)}};
  }
  std::vector<CaptionRow> rows;
  for (const std::string& text : texts)
    rows.push_back(caption_row(text, *tokenizer, tokens, cleaned));
  const bool weighted = std::any_of(rows.begin(), rows.end(), has_weights);
  if (weighted) rows.push_back(caption_row("", *tokenizer, tokens, cleaned));
  std::vector<int32_t> ids;
  std::vector<float> mask(rows.size() * length, 0.0f);
  for (size_t i = 0; i < rows.size(); ++i) {
    ids.insert(ids.end(), rows[i].row.ids.begin(), rows[i].row.ids.end());
    const auto begin = mask.begin() + static_cast<std::ptrdiff_t>(i * length);
    if (masked) std::fill(begin + rows[i].used, begin + tokens, kHidden);
  }
  const auto count = static_cast<int64_t>(rows.size());
  NetworkInputs inputs;
  inputs.add("input_ids", {count, tokens}, ids.data());
  inputs.add("mask", {count, tokens}, mask.data());
  const auto outputs = run_network(*networks_.captions, inputs, observer);
  networks_.captions->release_mapped();  // it is the largest part of all
  const FloatArray& hidden = output_of(outputs, "last_hidden_state", name, 3, count);
  require(hidden.shape[1] == tokens, ErrorKind::unsupported_model, "[generate] the ", name,
          " gives ", hidden.shape[1], " states of ", tokens, " tokens");

  const auto slice = [](const std::vector<float>& all, size_t at, size_t size) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(at * size);
    return std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(size));
  };
  const size_t size = length * static_cast<size_t>(hidden.shape[2]);
  std::vector<TextStates> made;
  for (size_t i = 0; i < texts.size(); ++i) {
    made.push_back(
        {tokens, hidden.shape[2], slice(hidden.values, i, size), {}, slice(mask, i, length)});
    if (!weighted) continue;
    weigh_beyond(made.back().hidden, slice(hidden.values, texts.size(), size), rows[i].row.weights);
  }
  return made;
}

}  // namespace sdcore
