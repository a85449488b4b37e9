"""Opening checkpoints: any file or folder as named tensors, and as the parts of a model."""

from sdcore.checkpoint.detect import FAMILIES, Family, Kind
from sdcore.checkpoint.model import Checkpoint, Component, open, open_model
from sdcore.checkpoint.summary import PartSummary, Summary
from sdcore.checkpoint.weights import check_weights

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Component",
    "Family",
    "Kind",
    "PartSummary",
    "Summary",
    "check_weights",
    "open",
    "open_model",
]
