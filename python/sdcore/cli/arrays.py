"""Arrays that flags name, and how pictures are told from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdcore.errors import FileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PICTURES", "read_array"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_array(path: str, flag: str) -> NDArray[Any]:
    """That of a .npy file; raises FileError."""
    import numpy as np  # late, for a quick --help

    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays, and one is wanted, as numpy.save writes it")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileError(f"[cli] cannot read {flag} '{path}': {why}") from None
    return array
