"""A C++ program that forks after it has drawn, and ends as programs do in both processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from building import compiler, run

PROGRAM = r"""
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <optional>

#include "sdcore/sdcore.hpp"

int main(int, char** words) {
  std::optional<sdc::Model> model(std::in_place, words[1], "", 2);
  sdc::GenerateParams params("a cat");
  params.steps = 3;
  params.seed = 1;
  params.width = params.height = 32;
  const sdc::Images first = model->generate(params);
  const auto draws_the_same = [&] {
    const sdc::Images again = model->generate(params);
    return std::memcmp(again[0].pixels, first[0].pixels, 3u * 32 * 32) == 0;
  };
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const int code = draws_the_same() ? 7 : 1;
    model.reset();
    return code;
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 7 && draws_the_same() ? 0 : 1;
}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_forked_program_draws(installed: Path, exported: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "forks.cpp", tmp_path / "forks"
    source.write_text(PROGRAM)
    library = next(installed.glob("lib*/libsdcore.so")).parent
    links = (f"-I{installed / 'include'}", f"-L{library}", f"-Wl,-rpath,{library}", "-lsdcore")
    run(compiler("CXX", "c++"), "-std=c++17", source, "-o", program, *links)
    run(program, exported)
