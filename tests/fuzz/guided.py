"""Fuzzes a reader by coverage: libFuzzer, by way of atheris, keeps what reaches new lines.

    python tests/fuzz/guided.py READER CORPUS [libFuzzer's options]
    python tests/fuzz/guided.py torch-zip corpus -max_total_time=3600

READER is a folder of CORPUS, which fuzz.py --make makes: "gguf", "safetensors", "torch-zip",
"torch-legacy", "onnx", or "folder", of which the index of shards is spoilt. What reaches new lines
goes to READER-found in the working folder, and what crashes, takes too much time or memory or fails
with another error than sdcore's into a file beside it. The core, which reads GGUF, is not
instrumented: of it libFuzzer sees what the lines that call it do.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

READERS = ("gguf", "safetensors", "torch-zip", "torch-legacy", "onnx", "folder")
_INDEX = "diffusion_pytorch_model.safetensors.index.json"

_LOOKED_AT = ["sdcore.checkpoint", "sdcore.gguf", "sdcore.onnx", "json", "zipfile"]

with atheris.instrument_imports(include=_LOOKED_AT):
    import fuzz


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in READERS:
        sys.exit(__doc__)
    reader, corpus, *options = sys.argv[1:]
    seeds, found = Path(corpus) / reader, Path(f"{reader}-found")
    found.mkdir(exist_ok=True)
    # Where files are not written to a disk, if there is such a place.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        opened = spoilt = Path(folder) / "tried"
        if reader == "folder":
            shutil.copytree(seeds, opened)
            spoilt, seeds = opened / "unet" / _INDEX, seeds / "unet"

        def attempt(data: bytes) -> None:
            spoilt.write_bytes(data)
            fuzz.attempt_of(reader)(opened)

        defaults = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *defaults, *options, str(found), str(seeds)], attempt)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
