"""The faces of a picture, found and known by the networks of a folder that the user has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcore.errors import FileError, InvalidArgumentError, UnsupportedModelError
from sdcore.faces.alignment import SIDE
from sdcore.faces.detection import Detector
from sdcore.faces.recognition import Recognizer
from sdcore.models.base import RunOptions
from sdcore.onnx import OnnxModel, read
from sdcore.pictures.given import ImageLike, as_picture, opaque

__all__ = ["Face", "FaceAnalysis"]

_SIDES = (640, 576, 512, 448, 384, 320, 256)  # that a picture is fitted into, until a face is found
_DETECTS = 5  # outputs, from which on a network finds faces: insightface's model_zoo.py


@dataclass(frozen=True)
class Face:
    """A face of a picture, in its pixels: `bbox` `[4]` (left, top, right, bottom), `kps` `[5, 2]`
    (x and y of the left eye, the right eye, the nose and the left and right corner of the mouth,
    left and right of the picture), `det_score` from 0 to 1, and `embedding` `[512]`."""

    bbox: NDArray[np.float32]
    kps: NDArray[np.float32]
    det_score: float
    embedding: NDArray[np.float32]

    @property
    def normed_embedding(self) -> NDArray[np.float32]:
        """Of length 1."""
        normed: NDArray[np.float32] = self.embedding / np.linalg.norm(self.embedding)
        return normed

    @property
    def area(self) -> float:
        """Of the box, in pixels."""
        left, top, right, bottom = map(float, self.bbox)
        return (right - left) * (bottom - top)


class FaceAnalysis:
    """`FaceAnalysis.from_pretrained(folder).get(picture)`: what insightface's class of that name
    gives for detection and recognition. Safe to use from many threads."""

    def __init__(self, detector: Detector, recognizer: Recognizer, det_thresh: float) -> None:
        self._detector, self._recognizer, self._det_thresh = detector, recognizer, det_thresh

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        det_thresh: float = 0.5,
        threads: int | None = None,
    ) -> FaceAnalysis:
        """`folder` is one of insightface's packs, antelopev2 or buffalo_l: ONNX files of a detector
        (SCRFD with keypoints) and of a recognizer (ArcFace), told apart by their inputs and outputs
        as insightface tells them; others in it are left alone. `det_thresh` is the score from which
        on a place is a face.

        Raises FileError, CheckpointError for a damaged file, UnsupportedModelError for a network
        that is not run.
        """
        if not 0 < det_thresh < 1:
            raise InvalidArgumentError(
                f"[faces] det_thresh is a score between 0 and 1, got {det_thresh}"
            )
        models, refused = _models(Path(folder))
        detects = next((one for one in models if len(one.outputs) >= _DETECTS), None)
        knows = next((one for one in models if _knows_faces(one)), None)
        for model, what in (
            (detects, "finds faces (scrfd_10g_bnkps.onnx, det_10g.onnx)"),
            (knows, "knows faces (glintr100.onnx, w600k_r50.onnx)"),
        ):
            if model is None and refused:
                raise refused[0]
            if model is None:
                names = ", ".join(Path(one.path).name for one in models)
                raise UnsupportedModelError(
                    f"[faces] none of the ONNX files in '{folder}' {what}: there are {names}"
                )
        assert detects is not None and knows is not None
        options = RunOptions(dtype="f32", threads=threads)
        return cls(Detector(detects, _SIDES[0], options), Recognizer(knows, options), det_thresh)

    def get(self, image: ImageLike) -> list[Face]:
        """The faces of a picture, the largest first: a path, PIL's image, or an array in RGB.

        The picture is fitted into 640 x 640 pixels; where no face is found there, into fewer, as
        PhotoMaker does (TencentARC/PhotoMaker, photomaker/insightface_package.py): faces that fill
        a picture are found in small ones.
        Raises InvalidArgumentError where there is no face at all.
        """
        pixels = np.asarray(opaque(as_picture(image, "a picture of a face")))
        best = 0.0
        for side in _SIDES[:1] if self._detector.fixed else _SIDES:
            found = self._detector(pixels, side, self._det_thresh)
            if len(found.scores):
                break
            best = max(best, found.best)
        else:
            raise InvalidArgumentError(
                f"[faces] there is no face in {_called(image)}: the surest place has a score of "
                f"{best:.2f}, and {self._det_thresh:g} is wanted; give a picture with an upright "
                "face, seen from the front, and some room around it"
            )
        faces = [
            Face(box, points, float(score), self._recognizer(pixels, points))
            for box, score, points in zip(found.boxes, found.scores, found.points, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)

    def release(self) -> None:
        """Gives back the memory of prepared weights until the next call."""
        self._detector.release()
        self._recognizer.release()


def _models(folder: Path) -> tuple[list[OnnxModel], list[UnsupportedModelError]]:
    """Those of a folder, and why others are none: a pack has files that are of no use here."""
    models, refused = [], []
    for path in _files(folder):
        try:
            models.append(read(path))
        except UnsupportedModelError as error:
            refused.append(error)
    return models, refused


def _files(folder: Path) -> Sequence[Path]:
    """The ONNX files of a pack; one level deeper too, where unpacking put some."""
    if not folder.is_dir():
        raise FileError(f"[faces] '{folder}' is no folder: give that of insightface's ONNX files")
    for place in (folder, *sorted(one for one in folder.iterdir() if one.is_dir())):
        if found := sorted(place.glob("*.onnx")):
            return found
    raise FileError(
        f"[faces] '{folder}' has no ONNX files: give the folder of insightface's antelopev2 or "
        "buffalo_l, unpacked"
    )


def _knows_faces(model: OnnxModel) -> bool:
    return len(model.inputs) == 1 and model.inputs[0].shape[2:] == (SIDE, SIDE)


def _called(image: Any) -> str:
    return f"'{image}'" if isinstance(image, str | os.PathLike) else "the picture"
