"""The library that C and C++ programs link, installed as they find it, and an exported model."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pybind11
import pytest
import sdc
from building import ROOT, compiler, run
from filelock import FileLock

import sdcore
import tiny_models


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where libsdcore is installed. The objects of a build are used again: of the folder that
    SDCORE_TEST_BUILD names, of build/, or of what pip left in it."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build libsdcore with")
    compiler("CXX", "c++")
    everyones = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everyones = everyones.parent
    # What the first worker of pytest-xdist builds, others find.
    with FileLock(everyones / "libsdcore.lock"):
        build = built(everyones / "libsdcore")
    prefix = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", build, "--component", "library", "--prefix", prefix)
    return prefix


def built(otherwise: Path) -> Path:
    """The folder that libsdcore was built in."""
    build = Path(os.environ.get("SDCORE_TEST_BUILD", ROOT / "build"))
    if not is_build(build):
        build = next(filter(configures_again, sorted(build.glob("*"))), otherwise)
    if not is_build(build):
        run("cmake", "-S", ROOT, "-B", build, "-DSDCORE_PYTHON=OFF")
    run("cmake", "--build", build, "--target", "sdcore", "--parallel", "2")
    return build


def is_build(folder: Path) -> bool:
    cache = folder / "CMakeCache.txt"
    return cache.is_file() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" in cache.read_text()


def configures_again(folder: Path) -> bool:
    """Of what pip built: the pybind11 that it had is gone with the environment that it made."""
    here = ("-S", ROOT, "-B", folder, f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
    return (
        is_build(folder) and subprocess.run(["cmake", *here], capture_output=True).returncode == 0
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="session")
def exported(folder: Path) -> Path:
    """A tiny model for 3 or 20 steps, run in float32."""
    path = folder.with_suffix(".gguf")
    sdcore.DiffusionPipeline.open(folder).export(path, steps=[3, 20], dtype="f32")
    return path


@pytest.fixture(scope="module")
def library(installed: Path) -> sdc.Library:
    return sdc.Library(next(installed.glob("lib*/libsdcore.so")))


@pytest.fixture(scope="module")
def model(library: sdc.Library, exported: Path) -> sdc.Model:
    return sdc.Model(library, exported)
