"""A native inference runtime for Stable-Diffusion-family models."""

from sdcore._core import __version__, cpu_features
from sdcore.errors import (
    CancelledError,
    CheckpointError,
    FileError,
    InvalidArgumentError,
    OutOfMemoryError,
    SDCoreError,
    UnsupportedModelError,
)

__all__ = [
    "CancelledError",
    "CheckpointError",
    "FileError",
    "InvalidArgumentError",
    "OutOfMemoryError",
    "SDCoreError",
    "UnsupportedModelError",
    "__version__",
    "cpu_features",
]
