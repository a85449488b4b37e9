"""Files that a test writes again and again."""

from __future__ import annotations

from pathlib import Path


def write_anew(path: Path, content: bytes) -> None:
    """A new file under an old name: for one that is cut off and written over, ext4 waits until the
    disk has it."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
