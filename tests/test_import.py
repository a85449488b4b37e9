"""What `import sdcore` has, and what it does not wait for."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import sdcore

LOADED = "import sys; print(*(name for name in sys.modules if name.startswith('sdcore.')))"


def loaded(program: str) -> set[str]:
    paths = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", f"{program}; {LOADED}"]
    out = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths}
    )
    return set(out.stdout.splitlines()[-1].split())


def test_all_names_are_there() -> None:
    for name in sdcore.__all__:
        assert getattr(sdcore, name) is not None, name
    assert set(dir(sdcore)) >= set(sdcore.__all__)
    with pytest.raises(AttributeError, match="module 'sdcore' has no attribute 'nothing'"):
        _ = sdcore.nothing


def test_type_checkers_see_what_programs_see() -> None:
    tree = ast.parse(Path(sdcore.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name, home in seen.items():
        value = getattr(sdcore, name)
        if home == "sdcore":
            assert value is importlib.import_module(f"sdcore.{name}")
        else:
            assert value is getattr(importlib.import_module(home), name)
    assert seen.keys() >= sdcore._HOMES.keys()


def test_what_the_pages_call_is_there() -> None:
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    calls = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"\bsdcore(?:\.[A-Za-z]\w*)+(?=\()", page.read_text("utf-8"))
    }
    assert len(calls) > 10
    for page, name in sorted(calls):
        assert callable(pkgutil.resolve_name(name)), page


def test_info_of_a_picture_waits_for_no_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    modules = loaded(f"from sdcore.cli import main; main(['info', {str(path)!r}])")
    assert "sdcore.cli.info" in modules
    late = ("sdcore.pipelines", "sdcore.schedulers", "sdcore.models", "sdcore.checkpoint.conver")
    assert not [name for name in modules if name.startswith(late)]
    assert not [name for name in loaded("import sdcore") if name.startswith(late)]
    assert "sdcore.pipelines" in loaded("from sdcore import DiffusionPipeline")
