"""Hashes that name files, as A1111's web UI (modules/hashes.py) and civitai.com know them, and what
is remembered of them.

A model is known by the SHA-256 of its file, a LoRA in a safetensors file by that of what comes
after the header, which editors of metadata leave as it is (kohya's `addnet_hash_safetensors`).
Hashing takes seconds for some GB, so a file is hashed once, and again when its size or time is
another.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdcore import checkpoint
from sdcore.checkpoint.output import whole_file
from sdcore.errors import SDCoreError
from sdcore.locks import ForkableLock

__all__ = ["known_lora_hash", "known_sha256", "lora_hash", "sha256"]

log = logging.getLogger("sdcore")

_CHUNK = 1 << 20
_WHOLE, _BODY = "sha256", "sha256 after the header"  # kinds
_LORA_HASH = "sshs_model_hash"  # in kohya's metadata
_MOST_CACHED = 64 << 20  # bytes; a larger file is none of ours
_lock = ForkableLock()
# Made by this program, by kind and path: there may be no folder to keep them in.
_made: dict[tuple[str, str], list[Any]] = {}


def sha256(path: str | os.PathLike[str]) -> str | None:
    """64 hexadecimal digits; None of a folder, and of a file that cannot be read."""
    return _hash(Path(path), _WHOLE)


def known_sha256(path: str | os.PathLike[str]) -> str | None:
    """The same, where it has been hashed before; it costs nothing."""
    return _known(Path(path), _WHOLE)


def lora_hash(path: str | os.PathLike[str]) -> str | None:
    """That of a LoRA, which its trainer may have written down."""
    path = Path(path)
    return _written(path) or _hash(path, _lora_kind(path))


def known_lora_hash(path: str | os.PathLike[str]) -> str | None:
    """The same, where it is written down or has been hashed before."""
    path = Path(path)
    return _written(path) or _known(path, _lora_kind(path))


def _lora_kind(path: Path) -> str:
    return _BODY if path.suffix.lower() == ".safetensors" else _WHOLE


def _written(path: Path) -> str | None:
    if _lora_kind(path) != _BODY:
        return None
    try:
        return str(checkpoint.open(path).metadata.get(_LORA_HASH) or "") or None
    except SDCoreError:  # it is said when it is opened to draw with
        return None


def _hash(path: Path, kind: str) -> str | None:
    if (known := _known(path, kind)) is not None:
        return known
    try:
        state = _state(path)
        if state is None:
            return None
        digest = _digest(path, kind)
    except OSError as error:
        log.info("[hash] cannot read '%s': %s", path, error.strerror)
        return None
    with _lock:
        _remember(path, kind, [*state, digest])
    return digest


def _digest(path: Path, kind: str) -> str:
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        if kind == _BODY:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
    return digest.hexdigest()


def _known(path: Path, kind: str) -> str | None:
    try:
        state = _state(path)
    except OSError:
        return None
    place = os.path.realpath(path)
    entry = _made.get((kind, place)) or _remembered().get(kind, {}).get(place)
    if state is None or not isinstance(entry, list) or entry[:2] != state or len(entry) != 3:
        return None
    return entry[2] if isinstance(entry[2], str) else None


def _state(path: Path) -> list[int] | None:
    """What changes with a file's content; None of a folder."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns] if path.is_file() else None


# -- what is remembered ----------------------------------------


def _cache() -> Path | None:
    """In the user's folder for what can be made again (the XDG Base Directory Specification)."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = folder if folder.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # nobody's home
        return None
    return folder / "sdcore" / "hashes.json"


def _remembered() -> Mapping[str, Mapping[str, Any]]:
    """By kind and path: size, time and hash."""
    path = _cache()
    try:
        if path is None or path.stat().st_size > _MOST_CACHED:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {kind: entries for kind, entries in found.items() if isinstance(entries, dict)}


def _remember(path: Path, kind: str, entry: list[Any]) -> None:
    """Of two programs that write at once one is forgotten, and hashes again."""
    cache, place = _cache(), os.path.realpath(path)
    _made[kind, place] = entry
    if cache is None:
        return
    kept = {name: dict(entries) for name, entries in _remembered().items()}
    kept.setdefault(kind, {})[place] = entry
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(cache) as file:
            file.write(json.dumps(kept, indent=1).encode())
    except OSError as error:
        log.info("[hash] cannot keep hashes: %s", error)
