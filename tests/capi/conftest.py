"""The library that C and C++ programs link, installed as they find it, and an exported model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from building import ROOT, compiler, run

import sdcore
import tiny_models


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where libsdcore is installed. The objects of a build in build/, or in the folder that
    SDCORE_TEST_BUILD names, are used again."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build libsdcore with")
    compiler("CXX", "c++")
    build = Path(os.environ.get("SDCORE_TEST_BUILD", ROOT / "build"))
    cache = build / "CMakeCache.txt"
    if not (cache.is_file() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" in cache.read_text()):
        build = tmp_path_factory.mktemp("build")
        run("cmake", "-S", ROOT, "-B", build, "-DSDCORE_PYTHON=OFF")
    run("cmake", "--build", build, "--target", "sdcore", "--parallel", "2")
    prefix = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", build, "--component", "library", "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="session")
def exported(folder: Path) -> Path:
    """A tiny model for 3 or 20 steps, run in float32."""
    path = folder.with_suffix(".gguf")
    sdcore.DiffusionPipeline.open(folder).export(path, steps=[3, 20], dtype="f32")
    return path
