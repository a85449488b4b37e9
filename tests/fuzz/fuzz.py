"""Opens spoilt files for as long as it is told: each is read, or refused by one of sdcore's errors.

    python tests/fuzz/fuzz.py CORPUS --seconds 600 --seed 1 --keep FOLDER

CORPUS has a folder for each reader with sound files in it (`--make` makes it and ends).
Spoilt files are those with bytes, lengths and pieces changed, exchanged, left out or put twice,
several times over. What is tried lies in FOLDER/tried until it is done, so after a crash or a hang
it is there. Memory is held to a gigabyte more than the start takes.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdcore import SDCoreError, checkpoint
from sdcore.checkpoint.tensor import core_tensor
from sdcore.onnx import OnnxNetwork, read

# What counts, lengths and offsets break at.
EDGES = [0, 1, 2, 7, 8, 31, 32, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1,
         2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 100_000_000, 100_000_001]  # fmt: skip
WORDS = [
    b"GGUF", b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"\x80\x02", b"cos\n",
    b"system\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x93", b"R", b"Q", b"2", b"h\0", b"t.",
    b'"dtype":"F8_E4M3"', b'"shape":[', b'"data_offsets":[0,0]', b'"__metadata__":', b"-1",
    b"1e999", b"NaN", b'"weight_map":', b"../", b"[" * 200, b"\0" * 64, b"\xff" * 8,
]  # fmt: skip
MOST_SECONDS = 20  # for one file, on a busy machine


def spoilt(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        # Half of the changes near the start and the end, where headers and directories are.
        size = len(content)
        near = min(size, 2000)
        at = rng.choice([rng.randrange(size + 1), rng.randrange(near + 1),
                         size - rng.randrange(near + 1)])  # fmt: skip
        count = rng.choice([1, 1, 2, 4, 8, 64])
        change = rng.randrange(9)
        if change == 0 and at < size:
            content[at] ^= 1 << rng.randrange(8)
        elif change == 1 and at < size:
            content[at] = rng.randrange(256)
        elif change == 2:
            del content[at : at + count]
        elif change == 3:
            content[at:at] = content[at : at + count]
        elif change == 4:
            number = struct.pack("<Q", rng.choice(EDGES))[: rng.choice([1, 2, 4, 8])]
            content[at : at + len(number)] = number
        elif change == 5:
            word = rng.choice(WORDS)
            content[at : at + rng.choice([0, len(word)])] = word
        elif change == 6:
            del content[at:]
        elif change == 7:
            start = rng.randrange(size + 1)
            content[at : at + count] = content[start : start + count]
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            content[at:] = other[start:]
    return bytes(content)


def attempt(path: Path) -> bool:
    """Whether it opens; then everything that its first uses do."""
    try:
        opened = checkpoint.open(path)
        opened.summary()
    except SDCoreError as error:
        return refused(error)
    for tensor in opened.tensors.values():
        if tensor.nbytes < 1 << 20:
            use(core_tensor, tensor)
    use(components, opened)
    return True


def attempt_onnx(path: Path) -> bool:
    """Whether it is a network that runs."""
    try:
        model = read(path)
        network = OnnxNetwork(model, 16, 16)
        network(np.zeros((1, model.inputs[0].shape[1], 16, 16), np.float32))
    except SDCoreError as error:
        return refused(error)
    return True


def attempt_of(reader: str) -> Callable[[Path], bool]:
    return attempt_onnx if reader == "onnx" else attempt


def components(opened: checkpoint.Checkpoint) -> None:
    for component in opened.components.values():
        component.weights(dict.fromkeys(list(component.tensors)[:3], (3, 3)))


def use(what: Callable[[Any], object], value: Any) -> None:
    try:
        what(value)
    except SDCoreError as error:
        refused(error)


def refused(error: SDCoreError) -> bool:
    text = str(error)
    assert "\n" not in text and len(text) < 1500, text
    assert type(error) is not SDCoreError, f"a fault of sdcore's own: {text}"
    return False


def targets(corpus: Path) -> list[tuple[str, list[Path]]]:
    return [(folder.name, sorted(p for p in folder.rglob("*") if p.is_file()))
            for folder in sorted(corpus.iterdir())]  # fmt: skip


def write(path: Path, content: bytes) -> None:
    """A new file: for one that is cut off and written over, ext4 waits until the disk has it."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def fuzz(corpus: Path, seconds: float, seed: int, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    tried = keep / "tried"
    for name, paths in targets(corpus):
        rng = random.Random(f"{seed} {name}")
        seeds = [path.read_bytes() for path in paths]
        is_index, attempt = name == "folder", attempt_of(name)
        place = corpus / name if is_index else tried
        for path in paths:
            assert attempt(place if is_index else path), f"{path} is not sound"
        done = sound = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            which = rng.randrange(len(seeds))
            content = spoilt(seeds[which], seeds, rng)
            write(tried, content)
            if is_index:
                write(paths[which], content)
            signal.alarm(MOST_SECONDS)
            sound += attempt(place)
            signal.alarm(0)
            if is_index:
                write(paths[which], seeds[which])
            done += 1
        print(f"{name}: {done} files, {sound} of them sound", flush=True)
    tried.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--seconds", type=float, default=60, help="for each reader (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-out"))
    parser.add_argument("--make", action="store_true", help="only make the corpus; needs PyTorch")
    args = parser.parse_args()
    if args.make:
        import test_fuzz

        test_fuzz.make_corpus(args.corpus)
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    limit = pages * resource.getpagesize() + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    fuzz(args.corpus, args.seconds, args.seed, args.keep)


if __name__ == "__main__":
    main()
