#include "graph/attrs.h"

#include <array>

namespace sdcore {
namespace {

template <class T>
const T& expect(const char* op, std::string_view name, const Attr& from, const char* what) {
  const T* value = std::get_if<T>(&from);
  require(value != nullptr, ErrorKind::invalid_argument, "[", op, "] attribute '", name,
          "' must be ", what);
  return *value;
}

}  // namespace

void convert_attr(const char* op, std::string_view name, const Attr& from, bool& to) {
  to = expect<bool>(op, name, from, "true or false");
}
void convert_attr(const char* op, std::string_view name, const Attr& from, int64_t& to) {
  to = expect<int64_t>(op, name, from, "a whole number");
}
void convert_attr(const char* op, std::string_view name, const Attr& from, double& to) {
  if (const auto* whole = std::get_if<int64_t>(&from)) {
    to = static_cast<double>(*whole);
  } else {
    to = expect<double>(op, name, from, "a number");
  }
}
void convert_attr(const char* op, std::string_view name, const Attr& from, std::string& to) {
  to = expect<std::string>(op, name, from, "a string");
}
void convert_attr(const char* op, std::string_view name, const Attr& from,
                  std::vector<int64_t>& to) {
  to = expect<std::vector<int64_t>>(op, name, from, "a list of whole numbers");
}

Activation parse_activation(const char* op, std::string_view name) {
  constexpr std::array<std::pair<std::string_view, Activation>, 6> kNames = {
      {{"none", Activation::none},
       {"silu", Activation::silu},
       {"gelu", Activation::gelu},
       {"gelu_tanh", Activation::gelu_tanh},
       {"quick_gelu", Activation::quick_gelu},
       {"relu", Activation::relu}}};
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  fail(ErrorKind::invalid_argument, "[", op, "] unknown activation '", name,
       "'; use silu, gelu, gelu_tanh, quick_gelu or relu");
}

}  // namespace sdcore
