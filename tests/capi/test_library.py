"""The headers, what the library shows, and the example program of people who use CMake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from building import ROOT, compiler, run
from drawing import GIVEN, MASK
from PIL import Image

import sdcore

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only")
INCLUDE = ROOT / "csrc" / "include"


@pytest.mark.parametrize(
    "variable, name, standard, language, header",
    [
        ("CC", "cc", "c11", "c", "sdcore.h"),
        ("CXX", "c++", "c++17", "c++", "sdcore.h"),
        ("CXX", "c++", "c++17", "c++", "sdcore.hpp"),
        ("CXX", "c++", "c++20", "c++", "sdcore.hpp"),
    ],
)
def test_a_header_stands_alone(
    variable: str, name: str, standard: str, language: str, header: str, tmp_path: Path
) -> None:
    source = tmp_path / "twice"
    source.write_text(2 * f'#include "sdcore/{header}"\n' + "int main(void) { return 0; }\n")
    options = (f"-std={standard}", f"-I{INCLUDE}", "-x", language)
    run(compiler(variable, name), *STRICT, *options, source)


def test_the_c_example_of_the_header_compiles(tmp_path: Path) -> None:
    text = (INCLUDE / "sdcore" / "sdcore.h").read_text().partition("The rules")[0]
    lines = re.findall(r"^ \*   (.*)$", text, re.MULTILINE)
    assert "params.seed = 42;" in lines
    source = tmp_path / "example.c"
    includes = ["#include <stdio.h>", '#include "sdcore/sdcore.h"']
    source.write_text("\n".join([*includes, "int main(void) {", *lines, "return 0;", "}", ""]))
    run(compiler("CC", "cc"), *STRICT, "-std=c11", f"-I{INCLUDE}", source)


@pytest.mark.parametrize("language, standard", [("c", "c11"), ("cpp", "c++17")])
def test_the_programs_of_the_guide_compile(language: str, standard: str, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "embed-in-cpp.md").read_text()
    programs = re.findall(rf"^```{language}\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert programs
    tool = compiler("CC", "cc") if language == "c" else compiler("CXX", "c++")
    for program in programs:
        source = tmp_path / f"program.{language}"
        source.write_text(program)
        run(tool, *STRICT, f"-std={standard}", f"-I{INCLUDE}", source)


def test_the_library_shows_the_c_abi_and_nothing_else(installed: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("there is no nm to list symbols with")
    library = next(installed.glob("lib*/libsdcore.so"))
    listed = run("nm", "-D", "--defined-only", "--format=posix", library)
    symbols = {line.split()[0].partition("@")[0] for line in listed.splitlines()}
    header = (INCLUDE / "sdcore" / "sdcore.h").read_text()
    declared = set(re.findall(r"^SDC_API .*?\b(sdc_\w+)\(", header, re.MULTILINE))
    assert len(declared) > 10
    assert {name for name in symbols if not name.startswith("SDCORE_")} == declared


def test_pkg_config_finds_it(installed: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("there is no pkg-config")
    folder = next(installed.glob("lib*/pkgconfig"))
    asked = ("pkg-config", "--cflags", "--libs", "sdcore")
    flags = run(*asked, env={**os.environ, "PKG_CONFIG_PATH": str(folder)}).split()
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(
        "#include <stdio.h>\n#include <sdcore/sdcore.h>\n"
        "int main(void) { puts(sdc_version()); return 0; }\n"
    )
    run(compiler("CC", "cc"), source, "-o", program, *flags)
    told = run(program, env={"LD_LIBRARY_PATH": str(folder.parent)})
    assert told.strip() == sdcore.__version__


@pytest.fixture(scope="module")
def examples(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("example")
    source = ROOT / "examples" / "cpp"
    run("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", build, "--parallel", "2")
    return build


def test_a_program_without_python_draws_what_python_draws(
    examples: Path, exported: Path, folder: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.ppm"
    options = ("-n", "blurry dog", "-W", "48", "-H", "64", "-t", "3", "-g", "7.3", "-s", "5")
    words = (examples / "txt2img", exported, "the red circle of a cat", picture)
    said = run(*words, *options, env={**os.environ, "PATH": ""})
    # Three steps of PLMS, which SD 1.x comes with, ask the model four times.
    assert "step 4 of 4" in said and "seed 5" in said
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    expected = pipe(
        "the red circle of a cat",
        "blurry dog",
        width=48,
        height=64,
        num_inference_steps=3,
        guidance_scale=7.3,
        seed=5,
    )
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(expected.images[0]))


def test_it_draws_over_a_picture_as_python_does(
    examples: Path, exported: Path, folder: Path, tmp_path: Path
) -> None:
    photo, mask, picture = (tmp_path / name for name in ("photo.ppm", "mask.pgm", "picture.ppm"))
    Image.fromarray(GIVEN).save(photo)
    Image.fromarray(MASK).save(mask)
    options = ("-m", mask, "-r", "0.7", "-n", "blurry dog", "-t", "3", "-s", "5")
    words = (examples / "img2img", exported, photo, "a cat", picture)
    said = run(*words, *options, env={**os.environ, "PATH": ""})
    assert "step 3 of 3" in said and "seed 5" in said  # two steps, of which PLMS asks three times
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    given = {"image": photo, "mask_image": mask, "strength": 0.7}
    expected = pipe("a cat", "blurry dog", **given, num_inference_steps=3, seed=5)
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(expected.images[0]))


def test_their_errors_are_one_line(examples: Path, exported: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.ppm"
    short.write_bytes(b"P6 # a picture\n40 30 255\nnot so many")
    for program, words, text in (
        ("txt2img", (), "usage"),
        ("txt2img", ("missing.gguf", "a cat"), "missing.gguf"),
        ("txt2img", (exported, "a cat", "-W", "513"), "[generate] width must be a multiple of 2"),
        ("img2img", (exported, exported, "a cat"), "is no P6 file of 8 bits"),
        ("img2img", (exported, short, "a cat"), "ends too early"),
    ):
        done = subprocess.run([examples / program, *words], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert text in done.stderr
