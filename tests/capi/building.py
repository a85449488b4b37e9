"""Running compilers and other tools in tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, **options: object) -> str:
    """The output of a command; a failure shows it."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def compiler(variable: str, name: str) -> str:
    found = shutil.which(os.environ.get(variable, name))
    if found is None:
        pytest.skip(f"there is no {name} to compile with")
    return found
