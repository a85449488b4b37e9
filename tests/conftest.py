"""Its being here puts tests/ on the path, so that every test can import the helpers beside it."""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

# Hashes of files, which users keep in theirs; also of the programs that tests start.
_CACHE = tempfile.TemporaryDirectory(prefix="sdcore-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# Its threads wait by spinning, on processors that sdcore's need, for references that are small.
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Of modules and tests, a million objects, none goes away: the collector need not look."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that examples/ makes, in one file."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    script = Path(__file__).parent.parent / "examples" / "make_tiny_model.py"
    subprocess.run([sys.executable, script, path], check=True, capture_output=True)
    return path
