"""ArcFace (Deng et al. 2018): 512 numbers that are alike for pictures of one person.

How pictures come to it is insightface's (python-package/insightface/model_zoo/arcface_onnx.py)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import UnsupportedModelError
from sdcore.faces.alignment import SIDE, aligned
from sdcore.models.base import RunOptions
from sdcore.onnx import OnnxModel, OnnxNetwork

__all__ = ["Recognizer"]

_LOOKED_AT = 8  # nodes, among which a network that normalises pictures itself does so


class Recognizer:
    """`recognizer(pixels, kps)`: the embedding `[d]`, not normed, of the face with these five
    points in a picture `[h, w, 3]`."""

    def __init__(self, model: OnnxModel, options: RunOptions) -> None:
        if len(model.outputs) != 1:
            raise UnsupportedModelError(
                f"[faces] '{model.path}' has {len(model.outputs)} outputs, and a network that "
                "knows faces (glintr100.onnx, w600k_r50.onnx) has 1"
            )
        first = {node.op for node in model.nodes[:_LOOKED_AT]}
        self._mean = self._std = 127.5  # of RGB
        if {"Sub", "Mul"} <= first:
            self._mean, self._std = 0.0, 1.0
        self._network = OnnxNetwork(model, SIDE, SIDE, options)

    def __call__(self, pixels: NDArray[np.uint8], kps: NDArray[np.float32]) -> NDArray[np.float32]:
        face = aligned(pixels, kps).astype(np.float32)
        blob = (face - np.float32(self._mean)) / np.float32(self._std)
        (embedding,) = self._network(blob.transpose(2, 0, 1)[None]).values()
        return embedding.reshape(-1)

    def release(self) -> None:
        self._network.release()
