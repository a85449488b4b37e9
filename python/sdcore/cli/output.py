"""Where pictures go: names from a pattern, and every refusal before any work is done."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sdcore.errors import FileError, InvalidArgumentError
from sdcore.image_io import FORMATS

__all__ = ["check_outputs", "output_paths"]

_NUMBER = re.compile(r"%(0\d+)?d")
_MAX_SLUG = 48  # characters: at four bytes each still within the 255 of a file name


def output_paths(output: str | None, prompt: str, seeds: Sequence[int]) -> list[Path]:
    """One path a picture.

    `output` is a folder (there, or with a slash at its end), or a file name in which `{seed}` and
    `%d` or `%03d` (the picture's number, from 1) are filled in. None means the current folder.
    """
    if output is None or _is_folder_name(output) or Path(output).is_dir():
        name = f"{slug(prompt)}-{{seed}}.png"
        pattern = os.path.join(output, name) if output else name  # noqa: PTH118 (keeps a pattern)
    else:
        pattern = _with_suffix(output)
        if len(seeds) > 1 and not (_NUMBER.search(pattern) or "{seed}" in pattern):
            name, ending = os.path.splitext(pattern)  # noqa: PTH122 (keeps a pattern)
            pattern = f"{name}-%d{ending}"
    return [Path(_fill(pattern, seed, i)) for i, seed in enumerate(seeds, start=1)]


def slug(prompt: str) -> str:
    """A prompt as a file name: `a-red-circle`."""
    words = re.findall(r"\w+", prompt.lower())
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:_MAX_SLUG]
        if len(longer) > _MAX_SLUG:
            break
        name = longer
    return name or "picture"


def _with_suffix(output: str) -> str:
    suffix = Path(output).suffix
    if suffix.lower() in FORMATS:
        return output
    if suffix.lower() in {".gif", ".bmp", ".tif", ".tiff", ".avif", ".jxl"}:
        raise InvalidArgumentError(
            f"[output] pictures are written as {', '.join(FORMATS)}, got '{output}'"
        )
    # A device or a pipe is named as it is, to be refused as what it is.
    return output if Path(output).exists() else f"{output}.png"


def _fill(pattern: str, seed: int, number: int) -> str:
    def digits(match: re.Match[str]) -> str:
        return str(number).zfill(int(match[1] or 0))

    return _NUMBER.sub(digits, pattern).replace("{seed}", str(seed))


def _is_folder_name(output: str) -> bool:
    return output.endswith(("/", os.sep))


def make_folder(output: str | None) -> None:
    """Makes the folder that `output` names by a slash at its end. Any other must be there."""
    if output is not None and _is_folder_name(output):
        try:
            Path(output).mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(f"[output] cannot make folder '{output}': {error.strerror}") from error


def check_outputs(paths: Sequence[Path], *, overwrite: bool, bytes_each: int) -> None:
    """Raises FileError for what would fail after the work."""
    for path in paths:
        if path.exists() and not path.is_file():
            raise FileError(f"[output] '{path}' is not a file that can be replaced")
        if path.exists() and not overwrite:
            raise FileError(f"[output] '{path}' exists already: -f overwrites it, -o names another")
    for folder in {path.parent for path in paths}:
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
            free = shutil.disk_usage(folder).free
        except OSError as error:
            why = error.strerror or error
            raise FileError(f"[output] cannot write in folder '{folder}': {why}") from error
        needed = bytes_each * len(paths)
        if free < needed:
            raise FileError(
                f"[output] the disk of folder '{folder}' is full: {free / 1e6:.1f} MB are free, "
                f"{needed / 1e6:.1f} MB may be needed"
            )
