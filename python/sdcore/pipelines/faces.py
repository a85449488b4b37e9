"""Faces of pictures, for the adapters of a pipeline that read who is on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sdcore.errors import InvalidArgumentError
from sdcore.pipelines.loading import PathLike
from sdcore.pipelines.pipeline import DiffusionPipeline

if TYPE_CHECKING:
    from sdcore.faces import Face, FaceAnalysis

__all__ = ["FacesPipeline", "largest", "surest"]


class FacesPipeline(DiffusionPipeline):
    """A pipeline that may find faces itself. `face_model` is None where embeddings of them have to
    be given."""

    face_model: FaceAnalysis | None = None

    def load_face_model(self, folder: PathLike) -> None:
        """Takes insightface's networks, a folder such as antelopev2 or buffalo_l: what reads faces
        then takes pictures of them. They run on the CPU.
        Raises FileError, CheckpointError, UnsupportedModelError."""
        from sdcore.faces import FaceAnalysis  # late: few models are opened for faces

        threads = self.denoiser.network.threads
        self.face_model = FaceAnalysis.from_pretrained(folder, threads=threads)

    def unload_face_model(self) -> None:
        """Forgets them."""
        self.face_model = None

    def _faces(
        self, pictures: Sequence[Any], choose: Callable[[Sequence[Face]], Face], dim: int
    ) -> list[Face]:
        """One of each picture, with an embedding of `dim` numbers; raises InvalidArgumentError
        where there is none."""
        model = self.face_model
        if model is None:  # another thread has unloaded it
            raise InvalidArgumentError("[faces] there is no face model: load_face_model first")
        faces = [choose(model.get(picture)) for picture in pictures]
        if self.unload:
            model.release()
        for face in faces:
            if face.embedding.shape != (dim,):
                raise InvalidArgumentError(
                    f"[faces] the face model tells faces by {face.embedding.size} numbers, and the "
                    f"adapter by {dim}"
                )
        return faces


def largest(faces: Sequence[Face]) -> Face:
    """That InstantID draws (InstantID/InstantID, infer.py)."""
    return max(faces, key=lambda face: face.area)


def surest(faces: Sequence[Face]) -> Face:
    """insightface's first, which FaceID and PhotoMaker draw (h94/IP-Adapter-FaceID, README.md;
    TencentARC/PhotoMaker, inference_scripts/inference_pmv2.py)."""
    return max(faces, key=lambda face: face.det_score)
