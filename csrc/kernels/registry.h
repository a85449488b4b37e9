// How a family lists its variants: kernels.inc holds one row an instruction set, best first and the
// portable one last; the first row that the context permits is used.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"

namespace sdcore {

// Row is a struct of function pointers with a member `Isa isa`.
template <class Row, size_t N, class Suits>
const Row& pick(const std::array<const Row*, N>& rows, Isa isa, Suits suits) {
  for (const Row* row : rows) {
    if (permits(isa, row->isa) && suits(*row)) return *row;
  }
  fail(ErrorKind::internal, "[kernels] no variant for ", isa_name(isa));
}

template <class Row, size_t N>
const Row& pick(const std::array<const Row*, N>& rows, Isa isa) {
  return pick(rows, isa, [](const Row&) { return true; });
}

template <class Row, size_t N>
std::vector<std::string> row_names(const std::array<const Row*, N>& rows) {
  std::vector<std::string> names;
  for (const Row* row : rows) names.emplace_back(isa_name(row->isa));
  return names;
}

}  // namespace sdcore
