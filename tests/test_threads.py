"""Threads that the system does not start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sdcore

CODE = """
import resource

from sdcore import OutOfMemoryError, _core

with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
try:
    _core.Network(_core.Graph(), {}, threads=512)
except OutOfMemoryError as error:
    print(error)
_core.Network(_core.Graph(), {}, threads=2)
"""


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs all addresses"
)
def test_they_are_an_error() -> None:
    env = {"PYTHONPATH": str(Path(sdcore.__file__).parents[1])}
    out = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True, env=env
    ).stdout
    assert out.startswith("[threads] the system started ") and "of 511 threads" in out, out
    assert out.count("\n") == 1
