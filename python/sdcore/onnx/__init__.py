"""ONNX files: a reader, and their networks as graphs of sdcore's own. Nothing else is needed.

What it runs are the ops of convolutional networks, those of faces first of all: `ops/`."""

from sdcore.onnx.model import OnnxModel, read
from sdcore.onnx.network import OnnxNetwork

__all__ = ["OnnxModel", "OnnxNetwork", "read"]
