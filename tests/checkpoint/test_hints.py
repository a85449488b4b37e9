"""What is said of files that are no models is true of what sdcore does with them."""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path

import pytest

import sdcore
from sdcore.checkpoint import FAMILIES
from sdcore.cli import txt2img
from sdcore.pipelines import DiffusionPipeline

ROOT = Path(sdcore.__file__).parent
USERS = "".join(  # whatever may use a file that was recognised
    path.read_text() for path in ROOT.rglob("*.py") if ROOT / "checkpoint" not in path.parents
)

REFUSED = {"controlnet-other"}  # those that are named only to be refused


def can_be_called(name: str) -> bool:
    return any(hasattr(kind, name) for kind in DiffusionPipeline.registry.values())


def arguments() -> set[str]:
    """Of opening a model, and of loading something beside it."""
    calls = [DiffusionPipeline.open]
    for kind in DiffusionPipeline.registry.values():
        calls += [getattr(kind, name) for name in dir(kind) if name.startswith("load_")]
    return {name for call in calls for name in inspect.signature(call).parameters}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hint_is_what_happens(name: str) -> None:
    family = FAMILIES[name]
    if family.runs:
        assert issubclass(DiffusionPipeline.registry[name], DiffusionPipeline)
        return
    parser = argparse.ArgumentParser()
    txt2img.add_arguments(parser)
    flags = re.findall(r"--[\w-]+", family.hint)
    assert all(flag in parser._option_string_actions for flag in flags)
    calls, given = re.findall(r"\bload_\w+", family.hint), re.findall(r"\b(\w+)=", family.hint)
    assert all(map(can_be_called, calls))
    assert set(given) <= arguments()
    # What nothing uses is named nowhere, and the other way round.
    assert bool(calls or given) == ("does not" not in family.hint)
    if "does not" in family.hint and name not in REFUSED:
        assert f'"{name}"' not in USERS
