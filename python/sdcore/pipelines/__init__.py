"""Prompt to picture."""

from sdcore.pictures.outpaint import outpaint
from sdcore.pipelines.call import Arguments
from sdcore.pipelines.loading import POCKET
from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.stream import PipelineOutput, Step, Stream

__all__ = [
    "POCKET",
    "Arguments",
    "DiffusionPipeline",
    "PipelineOutput",
    "Step",
    "Stream",
    "outpaint",
]
