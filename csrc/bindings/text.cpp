#include "bindings/bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "base/error.h"
#include "text/caption_cleaning.h"
#include "text/caption_rows.h"
#include "text/clip_bpe.h"
#include "text/emphasis.h"
#include "text/prompt_rows.h"
#include "text/unigram.h"

namespace py = pybind11;

namespace sdcore::bindings {
namespace {

py::array_t<int32_t> encode_padded(const ClipTokenizer& self, const std::vector<py::bytes>& texts,
                                   int64_t max_length) {
  std::vector<int32_t> ids;
  for (const py::bytes& text : texts) {
    const std::vector<int32_t> padded = self.encode_padded(std::string_view(text), max_length);
    ids.insert(ids.end(), padded.begin(), padded.end());
  }
  const auto rows = static_cast<py::ssize_t>(texts.size());
  return py::array_t<int32_t>({rows, static_cast<py::ssize_t>(max_length)}, ids.data());
}

UnigramTokenizer make_unigram(std::vector<std::string> tokens, const std::vector<float>& scores,
                              const std::vector<bool>& normal, const py::bytes& charsmap,
                              std::vector<int32_t> special, int32_t eos, int32_t pad,
                              int32_t unknown, bool add_prefix, bool remove_extra_spaces) {
  require(scores.size() == tokens.size() && normal.size() == tokens.size(), ErrorKind::checkpoint,
          "[tokenizer] there are ", tokens.size(), " tokens, ", scores.size(), " scores and ",
          normal.size(), " types");
  UnigramVocabulary vocabulary;
  for (size_t i = 0; i < tokens.size(); ++i) {
    vocabulary.pieces.push_back({std::move(tokens[i]), scores[i], normal[i]});
  }
  vocabulary.charsmap = std::string(charsmap);
  vocabulary.special = std::move(special);
  vocabulary.eos = eos;
  vocabulary.pad = pad;
  vocabulary.unknown = unknown;
  vocabulary.add_prefix = add_prefix;
  vocabulary.remove_extra_spaces = remove_extra_spaces;
  return UnigramTokenizer(std::move(vocabulary));
}

// Ids [n, max_length], and a mask of ones where they are not padding.
py::tuple encode_with_mask(const UnigramTokenizer& self, const std::vector<py::bytes>& texts,
                           int64_t max_length) {
  const auto rows = static_cast<py::ssize_t>(texts.size());
  py::array_t<int32_t> ids({rows, static_cast<py::ssize_t>(max_length)});
  py::array_t<int32_t> mask({rows, static_cast<py::ssize_t>(max_length)});
  std::vector<int32_t> row;
  for (py::ssize_t i = 0; i < rows; ++i) {
    const int64_t used =
        self.encode_padded(std::string_view(texts[static_cast<size_t>(i)]), max_length, row);
    std::copy(row.begin(), row.end(), ids.mutable_data(i, 0));
    std::fill_n(mask.mutable_data(i, 0), max_length, 0);
    std::fill_n(mask.mutable_data(i, 0), used, 1);
  }
  return py::make_tuple(ids, mask);
}

py::list parse_pieces(const py::bytes& prompt) {
  py::list pieces;
  for (const PromptPiece& piece : parse_emphasis(std::string_view(prompt))) {
    pieces.append(py::make_tuple(piece.text, piece.weight, piece.section));
  }
  return pieces;
}

using Group = std::tuple<std::vector<int32_t>, double, int64_t>;

std::vector<TokenGroup> to_groups(const std::vector<Group>& groups) {
  std::vector<TokenGroup> parts;
  for (const auto& [ids, weight, section] : groups) parts.push_back({ids, weight, section});
  return parts;
}

py::list cut(const ClipTokenizer& self, const std::vector<Group>& groups, int64_t length,
             int32_t padding) {
  py::list rows;
  for (const PromptRow& row : cut_rows(to_groups(groups), self, length, padding)) {
    rows.append(py::make_tuple(row.ids, row.weights));
  }
  return rows;
}

// Ids, weights, how many are not padding, and ids that found no room.
py::tuple cut_caption(const UnigramTokenizer& self, const std::vector<Group>& groups,
                      int64_t length) {
  const CaptionRow made = caption_row(to_groups(groups), self, length);
  return py::make_tuple(made.row.ids, made.row.weights, made.used, made.left_out);
}

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

Floats weighed(const Floats& states, const std::vector<float>& weights) {
  require(states.ndim() == 2 && states.shape(0) == static_cast<py::ssize_t>(weights.size()),
          ErrorKind::invalid_argument, "[prompt] states must be [", weights.size(), ", channels]");
  Floats out({states.shape(0), states.shape(1)}, states.data());
  weigh_states({out.mutable_data(), static_cast<size_t>(out.size())}, weights);
  return out;
}

Floats weighed_beyond(const Floats& states, const Floats& empty,
                      const std::vector<float>& weights) {
  for (const Floats& one : {states, empty}) {
    require(one.ndim() == 2 && one.shape(0) == static_cast<py::ssize_t>(weights.size()) &&
                one.shape(1) == states.shape(1),
            ErrorKind::invalid_argument, "[prompt] states must be [", weights.size(),
            ", channels], and those of an empty prompt too");
  }
  Floats out({states.shape(0), states.shape(1)}, states.data());
  const auto size = static_cast<size_t>(out.size());
  weigh_beyond({out.mutable_data(), size}, {empty.data(), size}, weights);
  return out;
}

}  // namespace

void init_text(py::module_& m) {
  m.def("parse_emphasis", &parse_pieces, py::arg("prompt"));
  m.def(
      "without_links", [](const py::bytes& text) { return without_links(std::string_view(text)); },
      py::arg("caption"));
  m.def(
      "without_noise", [](const py::bytes& text) { return without_noise(std::string_view(text)); },
      py::arg("caption"));
  m.def("weigh_states", &weighed, py::arg("states"), py::arg("weights"));
  m.def("weigh_beyond", &weighed_beyond, py::arg("states"), py::arg("empty"), py::arg("weights"));
  py::class_<SpecialToken>(m, "SpecialToken")
      .def(py::init<std::string, int32_t, bool>(), py::arg("text"), py::arg("id"),
           py::arg("normalized") = false);
  // Prompts come as bytes, so that a str which is not sound Unicode is no error.
  py::class_<ClipVocabulary, std::shared_ptr<ClipVocabulary>>(m, "ClipVocabulary")
      .def(py::init<std::vector<std::string>, std::vector<std::string>>(), py::arg("tokens"),
           py::arg("merges"))
      .def_static(
          "from_merges",
          [](const py::bytes& lines, size_t most) {
            return ClipVocabulary::from_merges(std::string_view(lines), most);
          },
          py::arg("lines"), py::arg("most"))
      .def_property_readonly("tokens", &ClipVocabulary::tokens)
      .def_property_readonly("merges", &ClipVocabulary::merges)
      .def("find", &ClipVocabulary::find, py::arg("token"))
      .def("__len__", [](const ClipVocabulary& self) { return self.tokens().size(); });
  py::class_<ClipTokenizer>(m, "ClipTokenizer")
      .def(
          py::init([](std::shared_ptr<ClipVocabulary> vocabulary, std::vector<SpecialToken> special,
                      int32_t bos, int32_t eos, int32_t pad, int32_t unknown) {
            return ClipTokenizer(std::move(vocabulary),
                                 {std::move(special), bos, eos, pad, unknown});
          }),
          py::arg("vocabulary"), py::arg("special"), py::arg("bos"), py::arg("eos"), py::arg("pad"),
          py::arg("unknown"))
      .def("encode", [](const ClipTokenizer& self,
                        const py::bytes& text) { return self.encode(std::string_view(text)); })
      .def("encode_padded", &encode_padded, py::arg("texts"), py::arg("max_length"))
      .def("cut_rows", &cut, py::arg("groups"), py::arg("length"), py::arg("padding"))
      .def("decode", [](const ClipTokenizer& self, const std::vector<int32_t>& ids) {
        return py::bytes(self.decode(ids));
      });
  py::class_<UnigramTokenizer>(m, "UnigramTokenizer")
      .def(py::init(&make_unigram), py::arg("tokens"), py::arg("scores"), py::arg("normal"),
           py::arg("charsmap"), py::arg("special"), py::arg("eos"), py::arg("pad"),
           py::arg("unknown"), py::arg("add_prefix"), py::arg("remove_extra_spaces"))
      .def("encode", [](const UnigramTokenizer& self,
                        const py::bytes& text) { return self.encode(std::string_view(text)); })
      .def("encode_padded", &encode_with_mask, py::arg("texts"), py::arg("max_length"))
      .def("cut_row", &cut_caption, py::arg("groups"), py::arg("length"));
}

}  // namespace sdcore::bindings
