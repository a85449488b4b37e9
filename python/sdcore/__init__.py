"""A native inference runtime for Stable-Diffusion-family models."""

from sdcore import gguf, ops
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
from sdcore.pipelines import DiffusionPipeline, PipelineOutput
from sdcore.quantization import dequantize, quantize
from sdcore.schedulers.ddim import DDIMScheduler
from sdcore.schedulers.ddpm import DDPMScheduler

__all__ = [
    "CancelledError",
    "CheckpointError",
    "DDIMScheduler",
    "DDPMScheduler",
    "DiffusionPipeline",
    "FileError",
    "InvalidArgumentError",
    "OutOfMemoryError",
    "PipelineOutput",
    "SDCoreError",
    "UnsupportedModelError",
    "__version__",
    "backends",
    "cpu_features",
    "dequantize",
    "gguf",
    "ops",
    "quantize",
]


def backends() -> list[str]:
    """The devices that networks can run on here."""
    return ["cpu"]
