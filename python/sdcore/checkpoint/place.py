"""Where what a user names lies: in a cache of Hugging Face's, or as the one file of a folder;
and what to say where there is nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sdcore.errors import CheckpointError, FileError

__all__ = [
    "INDEX",
    "SHARD",
    "listing",
    "located",
    "no_such",
    "refuse_dangling",
    "snapshot",
    "sole_weights",
    "weight_files",
]

WEIGHTS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
# One file of several that are one model, and the list of what lies in which.
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\..+)")
INDEX = ".index.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CACHE = Path("~/.cache/huggingface/hub")


def located(path: Path) -> Path:
    """The file or folder to read: a snapshot of a folder of Hugging Face's cache, and of a folder
    with nothing but one file of weights that file, as it is of one with a split GGUF, of which any
    file gives the whole. FileError if there is no such path."""
    if path.is_file():
        return path
    if not path.is_dir():  # a pipe, too, which would be waited for
        refuse_dangling(path)
        raise no_such(path)
    folder = snapshot(path)
    sole = sole_weights(folder)
    is_described = any((folder / name).is_file() for name in ("model_index.json", "config.json"))
    is_gguf = bool(sole) and sole[0].suffix == ".gguf"
    if not is_gguf and (len(sole) != 1 or is_described):
        return folder
    refuse_dangling(sole[0])
    return sole[0]


def snapshot(folder: Path) -> Path:
    """The one that `main` is, of a folder that Hugging Face's programs keep (`refs`, `snapshots`,
    `blobs`); any other folder itself."""
    if not (folder / "snapshots").is_dir():
        return folder
    there = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    name = main.read_text("utf-8").strip() if main.is_file() else ""
    chosen = [path for path in there if path.name == name] or there
    if not there:
        raise CheckpointError(f"[checkpoint] '{folder}' holds no snapshot: download it again")
    if len(chosen) != 1:
        raise CheckpointError(
            f"[checkpoint] '{folder}' holds {len(there)} snapshots, and does not say which one is "
            f"main: give one of {listing(folder / 'snapshots')}"
        )
    return chosen[0]


def sole_weights(folder: Path) -> Sequence[Path]:
    """The one file of weights in a folder; or the index of several that are one model, or if there
    is none, these. Nothing where there are more of them."""
    if any((folder / name).is_dir() for name in ("unet", "transformer")):
        return []
    indices = sorted(folder.glob(f"*{INDEX}"))
    if len(indices) == 1:
        return indices
    files = weight_files(folder)
    if len(files) == 1 and not SHARD.fullmatch(files[0].name):
        return files
    sets = {(m["stem"], m["count"], m["ending"]) if (m := SHARD.fullmatch(f.name)) else f.name
            for f in files}  # fmt: skip
    return files if len(sets) == 1 and not indices else []


def weight_files(folder: Path) -> list[Path]:
    """By name, with links to files that are not there."""
    named = (path for path in folder.iterdir() if path.suffix.lower() in WEIGHTS)
    return sorted(path for path in named if path.is_file() or not path.exists())


def refuse_dangling(path: Path) -> None:
    """A cache is full of links to what it has downloaded."""
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"[checkpoint] '{path}' is a link to a file that is not there: download it again"
        )


def no_such(path: Path) -> FileError:
    text = str(path)
    plain = f"[checkpoint] no such file or folder: '{path}'"
    if re.match(r"https?:/", text):
        return FileError(f"{plain}: sdcore downloads nothing, so fetch it first")
    is_file = path.suffix.lower() in WEIGHTS
    if is_file or path.parent.is_dir() or not _HUB_ID.fullmatch(text):
        return FileError(plain)
    cached = _CACHE / f"models--{text.replace('/', '--')}"
    if cached.expanduser().is_dir():
        return FileError(f"{plain}: give its folder in Hugging Face's cache, {cached}")
    return FileError(
        f"{plain}: sdcore downloads nothing; 'hf download {text}' gets a model of huggingface.co "
        "and says the folder to give"
    )


def listing(folder: Path, limit: int = 8) -> str:
    """What lies in it, for an error."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    shown = ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
    return shown or "nothing"
