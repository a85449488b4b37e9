"""Checks that no room of the house uses one that is not below it; lists what does and fails.

    python tools/check_layers.py

The plan below is the one place that says what is above what.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# From the bottom up. A room may use itself and the rooms of the lines before its own.
CPP = (
    ("base",),
    ("gpu", "simd", "text", "sampler"),
    ("quant",),
    ("gguf", "kernels"),
    ("graph",),
    ("runtime",),
    ("pipeline",),
    ("capi", "bindings"),
)
PYTHON = (
    ("errors",),
    ("_core", "arguments", "image_io", "locks"),
    ("gguf", "graph", "pictures", "quantization", "tokenizer"),
    ("ops",),
    ("checkpoint",),
    ("adapters", "models", "prompts", "schedulers"),
    ("onnx",),
    ("faces",),
    ("pipelines",),
    ("webui",),
    ("server",),
    ("cli",),
    ("__init__",),
    ("__main__",),
)
# What a user would import: the package itself, of which a room on top may read the version.
PACKAGE_USERS = ("cli", "server", "__main__")

Layers = tuple[tuple[str, ...], ...]


def main(root: Path) -> int:
    faults = [*_cpp_faults(root / "csrc"), *_python_faults(root / "python" / "sdcore")]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def _cpp_faults(csrc: Path) -> Iterator[str]:
    public = {path.name for path in (csrc / "include").glob("*/*")}
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in {".h", ".hpp", ".cpp", ".cu", ".cuh", ".inc"}:
            continue
        room = path.relative_to(csrc).parts[0]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if match is None:
                continue
            used = match[1].partition("/")[0]
            where = f"{path.relative_to(csrc.parent)}:{number}"
            if room == "include" or used == "sdcore":
                # The public headers stand alone, and only the C ABI implements them.
                ok = used in {"sdcore", *public} and room in {"include", "capi"}
                if not ok:
                    yield f"{where}: {room} may not include {match[1]}"
            elif "/" not in match[1]:
                yield f"{where}: name {match[1]} from csrc: its room, then the file"
            else:
                yield from _fault(CPP, room, used, where)


def _python_faults(package: Path) -> Iterator[str]:
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text("utf-8"), str(path))
        for number, module in _imports(tree):
            used = module.split(".")[1] if "." in module else "__init__"
            if used == "__init__" and room in PACKAGE_USERS:
                continue
            where = f"{path.relative_to(package.parent.parent)}:{number}"
            yield from _fault(PYTHON, room, used, where)


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import of sdcore; `from sdcore import x` names the room x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            modules = ["sdcore.<relative import>"]
        elif isinstance(node, ast.ImportFrom) and node.module == "sdcore":
            modules = [
                f"sdcore.{alias.name}" if alias.name != "__version__" else "sdcore"
                for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            if module.partition(".")[0] == "sdcore":
                yield node.lineno, module


def _fault(layers: Layers, room: str, used: str, where: str) -> Iterator[str]:
    level = {name: i for i, names in enumerate(layers) for name in names}
    for name in (room, used):
        if name not in level:
            yield f"{where}: {name} is in no layer of tools/check_layers.py"
            return
    if used != room and level[used] >= level[room]:
        yield f"{where}: {room} may not use {used}, which is not below it"


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
