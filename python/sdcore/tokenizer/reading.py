"""What tokenizers share: reading their files, and what they tell of prompts."""

import contextlib
import functools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdcore.errors import CheckpointError, FileError

logger = logging.getLogger("sdcore.tokenizer")

_MOST_SHOWN = 100  # characters of a prompt


@contextlib.contextmanager
def damage_in(place: str) -> Iterator[None]:
    """Values of the wrong type in what was read are the file's fault."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"[tokenizer] {place} does not hold a tokenizer as expected: {error!r}"
        ) from error


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@functools.lru_cache(maxsize=64)  # once for a prompt, however often it is encoded
def warn_of_cut(max_length: int, part: str) -> None:
    logger.warning(
        "the prompt is longer than the text encoder's %d tokens; this part of it is left out: %s",
        max_length,
        part if len(part) <= _MOST_SHOWN else f"{part[:_MOST_SHOWN]}…",
    )


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileError(f"[tokenizer] cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"[tokenizer] {path} is not UTF-8 text: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise CheckpointError(f"[tokenizer] {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"[tokenizer] {path} must hold an object, not {type(value).__name__}")
    return value
