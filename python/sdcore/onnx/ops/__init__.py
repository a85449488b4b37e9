"""How ONNX's ops are written in sdcore's graph, a file a kind; each registers those that it has.

What they mean: onnx/onnx, docs/Operators.md."""

from sdcore.onnx.ops import arithmetic, constants, convolutions, pooling, products, shapes

__all__ = ["arithmetic", "constants", "convolutions", "pooling", "products", "shapes"]
