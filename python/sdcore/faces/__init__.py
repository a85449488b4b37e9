"""Faces of pictures, where they are and whose, by insightface's networks that the user has."""

from sdcore.faces.analysis import Face, FaceAnalysis

__all__ = ["Face", "FaceAnalysis"]
