"""What a file says beside its tensors: configs, vocabulary and metadata, to be written again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sdcore import gguf
from sdcore.checkpoint import gguf_output
from sdcore.checkpoint.files import CONFIG_KEY, FOLDED_KEY, TOKENIZER_KEY
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.output import Outgoing
from sdcore.errors import UnsupportedModelError
from sdcore.tokenizer import CLIPTokenizer

# What the writer of a file says of that file alone.
_OF_THE_FILE = ("general.alignment", "general.file_type", "general.quantization_version")
# Where a model once lay on somebody's disk.
_PRIVATE = ("_name_or_path",)


def file_metadata(opened: Checkpoint) -> dict[str, str | int | float | bool]:
    """For .safetensors and PyTorch's files, whose values are plain."""
    kept = {k: v for k, v in _kept(opened).items() if k != "format"}
    vocabulary = {k: v for k, v in kept.items() if k.startswith(TOKENIZER_KEY)}
    for key in vocabulary:
        del kept[key]
    if own := own_tokenizer(opened):
        kept |= {k: json.dumps(v, ensure_ascii=False) for k, v in own.to_gguf_metadata().items()}
    values = {k: v if isinstance(v, str | int | float) else _json(v) for k, v in kept.items()}
    return values | _configs(opened)


def gguf_metadata(
    opened: Checkpoint, tensors: Iterable[Outgoing], folded: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """With the keys by which other programs know a file. `folded` are the true shapes of tensors
    that are stored in another one."""
    family = opened.kind.family if opened.kind else None
    metadata: dict[str, Any] = {}
    if family:
        metadata["general.architecture"] = family.partition("-")[0]
    number = gguf_output.file_type(tensors)
    if number is not None:
        metadata["general.file_type"] = number
        metadata["general.quantization_version"] = gguf_output.QUANTIZATION_VERSION
    typed = gguf.open(opened.path).typed_metadata if opened.format == "gguf" else {}
    kept = {key: typed.get(key, value) for key, value in _kept(opened).items()}
    if tokenizer := own_tokenizer(opened):
        kept |= tokenizer.to_gguf_metadata()
        # GGUF's types are i32, where a list of small numbers would be written as u32.
        types = f"{TOKENIZER_KEY}token_type"
        kept[types] = gguf.Typed(kept[types], "i32")
    for name, shape in (folded or {}).items():
        kept[FOLDED_KEY + name] = gguf.Typed(list(shape), "i32")
    return metadata | {k: v for k, v in kept.items() if k not in metadata} | _configs(opened)


def own_tokenizer(opened: Checkpoint) -> CLIPTokenizer | None:
    """The vocabulary that a checkpoint brings, unless it is CLIP's, which everybody has."""
    if (folder := opened.tokenizer_paths.get("tokenizer")) is not None:
        tokenizer = CLIPTokenizer.from_folder(folder)
    elif f"{TOKENIZER_KEY}tokens" in opened.metadata:
        tokenizer = CLIPTokenizer.from_gguf_metadata(opened.metadata)
    else:
        return None
    try:
        default = CLIPTokenizer.default()
    except UnsupportedModelError:  # not at hand, so nothing can be left out
        return tokenizer
    same = tokenizer.tokens == default.tokens and tokenizer.merges == default.merges
    return None if same else tokenizer


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _PRIVATE}


def _kept(opened: Checkpoint) -> dict[str, Any]:
    """All that is not of the old file alone; a folder's is its model_index.json."""
    if opened.format == "diffusers":
        return {}
    return {
        key: value
        for key, value in opened.metadata.items()
        if key not in _OF_THE_FILE and not key.startswith((FOLDED_KEY, CONFIG_KEY))
    }


def _configs(opened: Checkpoint) -> dict[str, str]:
    return {CONFIG_KEY + name: _json(public(config)) for name, config in opened.configs.items()}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
