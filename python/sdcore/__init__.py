"""A native inference runtime for Stable-Diffusion-family models.

What opens, converts or draws is imported when it is first asked for, so that a program waits only
for what it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sdcore._core import DeviceArray, __version__, cpu_features, device_names
from sdcore.errors import (
    CancelledError,
    CheckpointError,
    FileError,
    InvalidArgumentError,
    NumericalError,
    OutOfMemoryError,
    SDCoreError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from sdcore import gguf, ops
    from sdcore.checkpoint.conversion import convert
    from sdcore.checkpoint.quantization import quantize_model
    from sdcore.faces import Face, FaceAnalysis
    from sdcore.pictures.canny import canny
    from sdcore.pictures.face_keypoints import face_keypoints
    from sdcore.pictures.inpaint_condition import inpaint_condition
    from sdcore.pictures.outpaint import outpaint
    from sdcore.pipelines import DiffusionPipeline, PipelineOutput
    from sdcore.pipelines.families.stable_diffusion import StableDiffusionPipeline
    from sdcore.pipelines.families.stable_diffusion_3 import StableDiffusion3Pipeline
    from sdcore.pipelines.families.stable_diffusion_xl import StableDiffusionXLPipeline
    from sdcore.quantization import dequantize, quantize
    from sdcore.schedulers.cfg_plus_plus import (
        DDIMCFGPPScheduler,
        EulerAncestralCFGPPScheduler,
        EulerCFGPPScheduler,
    )
    from sdcore.schedulers.consistency_models import CMStochasticIterativeScheduler
    from sdcore.schedulers.ddim import DDIMScheduler
    from sdcore.schedulers.ddpm import DDPMScheduler
    from sdcore.schedulers.deis import DEISMultistepScheduler
    from sdcore.schedulers.dpmsolver_2s_ancestral import DPMSolver2SAncestralScheduler
    from sdcore.schedulers.dpmsolver_3m_sde import DPMSolver3MSDEScheduler
    from sdcore.schedulers.dpmsolver_multistep import DPMSolverMultistepScheduler
    from sdcore.schedulers.dpmsolver_sde import DPMSolverSDEScheduler
    from sdcore.schedulers.edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
    from sdcore.schedulers.edm_euler import EDMEulerScheduler
    from sdcore.schedulers.euler import EulerDiscreteScheduler
    from sdcore.schedulers.euler_ancestral import EulerAncestralDiscreteScheduler
    from sdcore.schedulers.flow_match_euler import FlowMatchEulerDiscreteScheduler
    from sdcore.schedulers.flow_match_heun import FlowMatchHeunDiscreteScheduler
    from sdcore.schedulers.heun import HeunDiscreteScheduler
    from sdcore.schedulers.kdpm2 import KDPM2DiscreteScheduler
    from sdcore.schedulers.kdpm2_ancestral import KDPM2AncestralDiscreteScheduler
    from sdcore.schedulers.lcm import LCMScheduler
    from sdcore.schedulers.lms import LMSDiscreteScheduler
    from sdcore.schedulers.pndm import PNDMScheduler
    from sdcore.schedulers.sasolver import SASolverScheduler
    from sdcore.schedulers.tcd import TCDScheduler
    from sdcore.schedulers.unipc import UniPCMultistepScheduler

__all__ = [
    "CMStochasticIterativeScheduler",
    "CancelledError",
    "CheckpointError",
    "DDIMCFGPPScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolver2SAncestralScheduler",
    "DPMSolver3MSDEScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DeviceArray",
    "DiffusionPipeline",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralCFGPPScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerCFGPPScheduler",
    "EulerDiscreteScheduler",
    "Face",
    "FaceAnalysis",
    "FileError",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "InvalidArgumentError",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "NumericalError",
    "OutOfMemoryError",
    "PNDMScheduler",
    "PipelineOutput",
    "SASolverScheduler",
    "SDCoreError",
    "StableDiffusion3Pipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "TCDScheduler",
    "UniPCMultistepScheduler",
    "UnsupportedModelError",
    "__version__",
    "backends",
    "canny",
    "convert",
    "cpu_features",
    "dequantize",
    "face_keypoints",
    "gguf",
    "inpaint_condition",
    "ops",
    "outpaint",
    "quantize",
    "quantize_model",
]


def backends() -> list[str]:
    """The devices that networks can run on here."""
    return ["cpu", *device_names()]


# Where names of TYPE_CHECKING above are that are neither modules nor schedulers.
_HOMES = {
    "convert": "checkpoint.conversion",
    "quantize_model": "checkpoint.quantization",
    **dict.fromkeys(("DiffusionPipeline", "PipelineOutput"), "pipelines"),
    **dict.fromkeys(("Face", "FaceAnalysis"), "faces"),
    "canny": "pictures.canny",
    "face_keypoints": "pictures.face_keypoints",
    "inpaint_condition": "pictures.inpaint_condition",
    "outpaint": "pictures.outpaint",
    "StableDiffusion3Pipeline": "pipelines.families.stable_diffusion_3",
    "StableDiffusionPipeline": "pipelines.families.stable_diffusion",
    "StableDiffusionXLPipeline": "pipelines.families.stable_diffusion_xl",
    **dict.fromkeys(("dequantize", "quantize"), "quantization"),
}

# What diffusers calls pipelines that DiffusionPipeline opens as well as any.
_PIPELINES = {
    *("AutoPipelineForText2Image", "ConsistencyModelPipeline", "LatentConsistencyModelPipeline"),
    *("PixArtAlphaPipeline", "PixArtSigmaPipeline", "StableDiffusionInstructPix2PixPipeline"),
    "StableDiffusionXLInstructPix2PixPipeline",
}


def __getattr__(name: str) -> Any:
    """A name of `__all__`, or of a pipeline of diffusers, or a module of the package."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"sdcore.{_HOMES[name]}"), name)
    elif name in __all__ and name.endswith("Scheduler"):
        value = importlib.import_module("sdcore.schedulers").get(name)
    elif name in _PIPELINES:
        value = __getattr__("DiffusionPipeline")
    else:
        value = _module(name)
    globals()[name] = value
    return value


def _module(name: str) -> Any:
    try:
        if not name.startswith("_"):
            return importlib.import_module(f"sdcore.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"sdcore.{name}":
            raise
    if name[:1].isupper():
        importlib.import_module("sdcore.pipelines.from_diffusers").require_class(name)
    raise AttributeError(f"module 'sdcore' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
