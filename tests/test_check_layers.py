"""The check of which room uses which finds what it should."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "check_layers.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_layers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_this_repository(check, capsys):
    assert check(SCRIPT.parent.parent) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "line", "fault"),
    [
        ("csrc/kernels/gemm/gemm.h", '#include "graph/op.h"', "kernels may not use graph"),
        ("csrc/kernels/gemm/gemm.cpp", '#include "gguf/reader.h"', "kernels may not use gguf"),
        ("csrc/quant/types.h", '#include "kernels/context.h"', "quant may not use kernels"),
        ("csrc/base/error.h", '#include "simd/math.h"', "base may not use simd"),
        ("csrc/attic/x.h", '#include "base/error.h"', "attic is in no layer"),
        ("csrc/graph/op.cpp", '#include "op.h"', "name op.h from csrc"),
        ("csrc/include/sdcore/sdcore.h", '#include "base/error.h"', "include may not include"),
        ("csrc/graph/op.h", '#include "sdcore/sdcore.h"', "graph may not include sdcore"),
        ("python/sdcore/models/x.py", "from sdcore.pipelines import x", "models may not use pip"),
        ("python/sdcore/models/x.py", "from sdcore import schedulers", "models may not use sch"),
        ("python/sdcore/errors.py", "import sdcore._core", "errors may not use _core"),
        ("python/sdcore/gguf.py", "def f():\n    from sdcore import cli", "gguf may not use cli"),
        ("python/sdcore/models/x.py", "from .base import x", "<relative import> is"),
    ],
)
def test_what_is_not_allowed(check, tmp_path, capsys, path, line, fault):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    assert check(tmp_path) == 1
    assert f"{path}:{len(line.splitlines())}: {fault}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("csrc/kernels/gemm/gemm.h", "#include <vector>"),
        ("csrc/kernels/gemm/gemm.h", '#include "kernels/context.h"'),
        ("csrc/capi/model.cpp", '#include "sdcore/sdcore.h"'),
        ("csrc/include/sdcore/sdcore.hpp", '#include "sdcore/sdcore.h"'),
        ("python/sdcore/cli/info.py", "from sdcore import __version__, checkpoint"),
        ("python/sdcore/models/x.py", "import numpy"),
    ],
)
def test_what_is_allowed(check, tmp_path, path, line):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    assert check(tmp_path) == 0
