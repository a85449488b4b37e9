"""Reading what lies on disk, a file or a diffusers folder, as one flat set of named tensors."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdcore import _core, gguf
from sdcore.checkpoint import safetensors, torch_legacy, torch_zip
from sdcore.checkpoint.sniff import HEAD, sniff
from sdcore.checkpoint.tensor import FoldedTensor, Tensor
from sdcore.errors import CheckpointError, FileError

# Keys of a file's metadata, before the name of a part or a tensor.
CONFIG_KEY = "sdcore.config."  # its config, as JSON
TOKENIZER_KEY = "tokenizer.ggml."  # its vocabulary
DEFAULT_KEY = (
    "sdcore.default."  # what it is best drawn with; a folder's model_index.json has it too
)
FOLDED_KEY = "comfy.gguf.orig_shape."  # its shape, where the tensor was folded for quantization

MAX_JSON = 1 << 26  # bytes; an index of ten thousand tensors takes a megabyte

# DiffusionPipeline.export names tensors after their graphs, and a VAE is two.
_EXPORTED = re.compile(r"^vae_(en|de)coder\.")


@dataclass
class Contents:
    """What a checkpoint holds, before anything is said about what it means.

    `configs` are the parts' own, in the JSON form of diffusers and transformers, "scheduler" too.
    """

    format: str
    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokenizers: dict[str, Path] = field(default_factory=dict)


def read_file(path: Path) -> Contents:
    file = _core.MappedFile(path)
    data = memoryview(file)
    format = sniff(bytes(data[:HEAD]), len(data), str(path))
    metadata: dict[str, Any]
    if format == "gguf":
        opened = gguf.open(path)
        metadata = opened.metadata
        tensors = {
            _EXPORTED.sub("vae.", key): _unfolded(key, value, opened)
            for key, value in opened.tensors.items()
        }
    elif format == "safetensors":
        tensors, metadata = safetensors.read(file)
    else:
        read = torch_zip.read if format == "torch zip" else torch_legacy.read
        tensors, metadata = read(file)
        format = "pickle"
    if format != "gguf":
        metadata = {key: _parsed(key, value, path) for key, value in metadata.items()}
    return Contents(format, tensors, metadata, _configs(metadata, path))


def _unfolded(name: str, tensor: Tensor, file: gguf.File) -> Tensor:
    shape = file.metadata.get(FOLDED_KEY + name)
    if shape is None:
        return tensor
    if not isinstance(shape, list) or math.prod(shape) != math.prod(tensor.shape):
        raise CheckpointError(
            f"[checkpoint] tensor '{name}' is {list(tensor.shape)}, and cannot be {shape!r:.80} as "
            f"'{FOLDED_KEY}{name}' says"
        )
    return FoldedTensor(tensor, tuple(shape))


def read_json(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > MAX_JSON:
            raise CheckpointError(
                f"[checkpoint] '{path}' has {size} bytes, more than {MAX_JSON} for a config or an "
                "index"
            )
        value = json.loads(path.read_text("utf-8-sig"))  # Windows' editors mark a text as such
    except OSError as error:
        raise FileError(f"[checkpoint] cannot read '{path}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"[checkpoint] '{path}' is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"[checkpoint] '{path}' is not a JSON object")
    return value


def _parsed(key: str, value: Any, path: Path) -> Any:
    """A vocabulary is lists, which only GGUF has: elsewhere they are written as JSON."""
    if not key.startswith(TOKENIZER_KEY) or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"[checkpoint] '{path}': metadata '{key}' is not JSON: {error}"
        ) from error


def _configs(metadata: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    configs = {}
    for key, text in metadata.items():
        if not key.startswith(CONFIG_KEY):
            continue
        try:
            config = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"[checkpoint] '{path}': metadata '{key}' is not JSON: {error}"
            ) from error
        if not isinstance(config, dict):
            raise CheckpointError(f"[checkpoint] '{path}': metadata '{key}' is not a JSON object")
        configs[key.removeprefix(CONFIG_KEY)] = config
    return configs
