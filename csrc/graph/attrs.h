// Typed attributes: an op writes a struct with defaults and a `fields` member that names them, and
// read_attrs fills it, refusing names and types that do not belong.
#pragma once

#include <string>

#include "base/error.h"
#include "graph/graph.h"

namespace sdcore {

// One attribute into one typed field; throws Error naming op, attribute and the type wanted.
void convert_attr(const char* op, std::string_view name, const Attr& from, bool& to);
void convert_attr(const char* op, std::string_view name, const Attr& from, int64_t& to);
void convert_attr(const char* op, std::string_view name, const Attr& from, double& to);
void convert_attr(const char* op, std::string_view name, const Attr& from, std::string& to);
void convert_attr(const char* op, std::string_view name, const Attr& from,
                  std::vector<int64_t>& to);

template <class T>
T read_attrs(const char* op, const Attrs& attrs) {
  T typed;
  size_t used = 0;
  std::string known;
  typed.fields([&](const char* name, auto& field) {
    known += (known.empty() ? "" : ", ") + std::string(name);
    if (const auto found = attrs.find(name); found != attrs.end()) {
      convert_attr(op, name, found->second, field);
      ++used;
    }
  });
  if (used == attrs.size()) return typed;
  for (const auto& [name, value] : attrs) {
    bool is_field = false;
    typed.fields([&](const char* field_name, auto&) { is_field = is_field || name == field_name; });
    require(is_field, ErrorKind::invalid_argument, "[", op, "] has no attribute '", name,
            known.empty() ? std::string("'; it has none") : "'; it has " + known);
  }
  return typed;
}

struct NoAttrs {
  template <class F>
  void fields(F&&) {}
};

Activation parse_activation(const char* op, std::string_view name);

}  // namespace sdcore
