"""The types in `_core.pyi` are of the names that the native module has, all and no others."""

import ast
import inspect
from pathlib import Path

import sdcore
from sdcore import _core


def public(names):
    return {name for name in names if not name.startswith("_")}


def names_in(body):
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id


def test_stub_names():
    stub = ast.parse((Path(sdcore.__file__).parent / "_core.pyi").read_text("utf-8"))
    assert public(names_in(stub.body)) == public(vars(_core))
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            members = public(names_in(node.body))
            there = public(vars(inspect.getattr_static(_core, node.name)))
            assert members == there, node.name
