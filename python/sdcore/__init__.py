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
from sdcore.schedulers.dpmsolver_multistep import DPMSolverMultistepScheduler
from sdcore.schedulers.euler import EulerDiscreteScheduler
from sdcore.schedulers.euler_ancestral import EulerAncestralDiscreteScheduler
from sdcore.schedulers.flow_match_euler import FlowMatchEulerDiscreteScheduler
from sdcore.schedulers.flow_match_heun import FlowMatchHeunDiscreteScheduler
from sdcore.schedulers.heun import HeunDiscreteScheduler
from sdcore.schedulers.kdpm2 import KDPM2DiscreteScheduler
from sdcore.schedulers.lcm import LCMScheduler
from sdcore.schedulers.lms import LMSDiscreteScheduler
from sdcore.schedulers.pndm import PNDMScheduler
from sdcore.schedulers.unipc import UniPCMultistepScheduler

__all__ = [
    "CancelledError",
    "CheckpointError",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DiffusionPipeline",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FileError",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "InvalidArgumentError",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "OutOfMemoryError",
    "PNDMScheduler",
    "PipelineOutput",
    "SDCoreError",
    "UniPCMultistepScheduler",
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
