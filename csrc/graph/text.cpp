// The graph as text. One line a value, in order:
//   %0 = input "sample" f32
//   %1 = weight "conv_in.weight" [320, 4, 3, 3]
//   %2 = conv2d(%0, %1, _) padding=[1, 1, 1, 1] stride=1
//   output "sample" = %2
#include <charconv>
#include <cstdio>
#include <iomanip>
#include <sstream>

#include "base/error.h"
#include "graph/graph.h"
#include "graph/op.h"

namespace sdcore {
namespace {

std::string quote(std::string_view text) {
  std::ostringstream quoted;
  quoted << std::quoted(text);  // a backslash before each quote and backslash
  return quoted.str();
}

struct PrintAttr {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const {
    char digits[32];
    std::snprintf(digits, sizeof(digits), "%.17g", value);  // 17 digits give the same double back
    const std::string text = digits;
    return text.find_first_of(".eni") == std::string::npos ? text + ".0" : text;
  }
  std::string operator()(const std::string& value) const { return quote(value); }
  std::string operator()(const std::vector<int64_t>& value) const { return to_string(value); }
};

// Reads one line, left to right.
class Line {
 public:
  Line(std::string_view text, size_t number) : rest_(text), number_(number) {}

  [[noreturn]] void error(const char* wanted) const {
    fail(ErrorKind::checkpoint, "[graph] line ", number_, ": expected ", wanted, " at '",
         rest_.substr(0, 40), "'");
  }
  void skip_spaces() {
    while (!rest_.empty() && rest_.front() == ' ') rest_.remove_prefix(1);
  }
  bool accept(std::string_view token) {
    skip_spaces();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  void expect(std::string_view token, const char* wanted) {
    if (!accept(token)) error(wanted);
  }
  bool done() {
    skip_spaces();
    return rest_.empty();
  }
  std::string_view word() {
    skip_spaces();
    size_t length = 0;
    while (length < rest_.size() &&
           (std::isalnum(static_cast<unsigned char>(rest_[length])) || rest_[length] == '_')) {
      ++length;
    }
    if (length == 0) error("a name");
    const std::string_view found = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return found;
  }
  std::string quoted() {
    expect("\"", "a quoted name");
    std::string text;
    while (!rest_.empty() && rest_.front() != '"') {
      if (rest_.front() == '\\') rest_.remove_prefix(1);
      if (rest_.empty()) break;
      text += rest_.front();
      rest_.remove_prefix(1);
    }
    expect("\"", "a closing quote");
    return text;
  }
  template <class T>
  T number(const char* wanted) {
    skip_spaces();
    T value{};
    const auto parsed = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (parsed.ec != std::errc()) error(wanted);
    rest_.remove_prefix(static_cast<size_t>(parsed.ptr - rest_.data()));
    return value;
  }
  std::vector<int64_t> list() {
    expect("[", "a list");
    std::vector<int64_t> values;
    if (accept("]")) return values;
    do values.push_back(number<int64_t>("a whole number"));
    while (accept(","));
    expect("]", "the end of a list");
    return values;
  }
  Attr attr() {
    skip_spaces();
    if (accept("true")) return true;
    if (accept("false")) return false;
    if (rest_.starts_with('"')) return quoted();
    if (rest_.starts_with('[')) return list();
    const std::string_view token = rest_.substr(0, rest_.find(' '));
    if (token.find_first_of(".eni") != std::string_view::npos) return number<double>("a number");
    return number<int64_t>("a number");
  }

 private:
  std::string_view rest_;
  size_t number_;
};

void parse_value(Graph& graph, Line& line) {
  if (line.number<ValueId>("the number of a value") != static_cast<ValueId>(graph.values.size())) {
    line.error("values numbered in order");
  }
  line.expect("=", "'='");
  const std::string_view kind = line.word();
  if (kind == "input") {
    std::string name = line.quoted();
    const std::string_view dtype = line.word();
    if (dtype != "f32" && dtype != "i32") line.error("f32 or i32");
    graph.add_input(std::move(name), dtype == "i32" ? DType::i32 : DType::f32);
    return;
  }
  if (kind == "weight") {
    std::string name = line.quoted();
    graph.add_weight(std::move(name), line.list());
    return;
  }
  std::vector<ValueId> inputs;
  line.expect("(", "'('");
  while (!line.accept(")")) {
    if (!inputs.empty()) line.expect(",", "','");
    if (line.accept("_")) {
      inputs.push_back(kAbsent);
    } else {
      line.expect("%", "a value");
      inputs.push_back(line.number<ValueId>("the number of a value"));
    }
  }
  Attrs attrs;
  while (!line.done()) {
    const std::string name(line.word());
    line.expect("=", "'='");
    attrs[name] = line.attr();
  }
  graph.add_node(kind, std::move(inputs), std::move(attrs));
}

void print_node(std::ostream& text, const Node& node) {
  text << node.op->name << '(';
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (i) text << ", ";
    if (node.inputs[i] == kAbsent) {
      text << '_';
    } else {
      text << '%' << node.inputs[i];
    }
  }
  text << ')';
  for (const auto& [name, attr] : node.attrs) {
    text << ' ' << name << '=' << std::visit(PrintAttr{}, attr);
  }
}

}  // namespace

std::string print_graph(const Graph& graph) {
  std::ostringstream text;
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const Value& value = graph.values[id];
    text << '%' << id << " = ";
    if (value.kind == Value::Kind::input) {
      text << "input " << quote(value.name) << ' ' << dtype_name(value.dtype);
    } else if (value.kind == Value::Kind::weight) {
      text << "weight " << quote(value.name) << ' ' << to_string(value.shape);
    } else {
      print_node(text, graph.nodes[static_cast<size_t>(value.node)]);
    }
    text << '\n';
  }
  for (const auto& [name, id] : graph.outputs) {
    text << "output " << quote(name) << " = %" << id << '\n';
  }
  return text.str();
}

Graph parse_graph(std::string_view text) {
  Graph graph;
  size_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    Line line(text.substr(0, end), ++number);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.done()) continue;
    if (line.accept("%")) {
      parse_value(graph, line);
    } else {
      line.expect("output", "a value or an output");
      std::string name = line.quoted();
      line.expect("=", "'='");
      line.expect("%", "a value");
      graph.add_output(std::move(name), line.number<ValueId>("the number of a value"));
    }
    if (!line.done()) line.error("the end of the line");
  }
  require(!graph.outputs.empty(), ErrorKind::checkpoint, "[graph] the text has no output");
  check_graph(graph);
  return graph;
}

}  // namespace sdcore
