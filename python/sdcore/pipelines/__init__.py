"""Prompt to picture."""

from sdcore.pipelines.pipeline import DiffusionPipeline
from sdcore.pipelines.stream import PipelineOutput, Step, Stream

__all__ = ["DiffusionPipeline", "PipelineOutput", "Step", "Stream"]
