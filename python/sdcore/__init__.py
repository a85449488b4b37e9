"""A native inference runtime for Stable-Diffusion-family models."""

from sdcore import gguf, ops
from sdcore._core import __version__, cpu_features, device_names
from sdcore.checkpoint.conversion import convert
from sdcore.errors import (
    CancelledError,
    CheckpointError,
    FileError,
    InvalidArgumentError,
    OutOfMemoryError,
    SDCoreError,
    UnsupportedModelError,
)
from sdcore.pipelines import DiffusionPipeline, PipelineOutput, outpaint
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
    "DiffusionPipeline",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralCFGPPScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerCFGPPScheduler",
    "EulerDiscreteScheduler",
    "FileError",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "InvalidArgumentError",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "OutOfMemoryError",
    "PNDMScheduler",
    "PipelineOutput",
    "SASolverScheduler",
    "SDCoreError",
    "TCDScheduler",
    "UniPCMultistepScheduler",
    "UnsupportedModelError",
    "__version__",
    "backends",
    "convert",
    "cpu_features",
    "dequantize",
    "gguf",
    "ops",
    "outpaint",
    "quantize",
]


def backends() -> list[str]:
    """The devices that networks can run on here."""
    return ["cpu", *device_names()]
