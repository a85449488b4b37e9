"""What a file says beside its tensors: configs, vocabulary and metadata, to be written again."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdcore import gguf
from sdcore.checkpoint import gguf_output
from sdcore.checkpoint.files import CONFIG_KEY, DEFAULT_KEY, FOLDED_KEY, TOKENIZER_KEY
from sdcore.checkpoint.layouts import layout_of
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.output import Outgoing
from sdcore.errors import UnsupportedModelError
from sdcore.tokenizer import CLIPTokenizer, T5Tokenizer
from sdcore.tokenizer.clip import metadata_for

log = logging.getLogger("sdcore")

# What the writer of a file says of that file alone.
_OF_THE_FILE = ("general.alignment", "general.file_type", "general.quantization_version")
# What other programs call a family, where it is not ours without what follows a dash.
_ARCHITECTURES = {"t5": "t5encoder"}
VOCABULARY_TYPES = {"token_type": "i32", "scores": "f32", "precompiled_charsmap": "u8"}
# A second vocabulary, which an exported file has: a converted one has room for one (_vocabulary).
_BESIDE = re.compile(r"tokenizer_\d+\.")
# Where a model once lay on somebody's disk.
_PRIVATE = ("_name_or_path",)


def file_metadata(opened: Checkpoint) -> dict[str, str | int | float | bool]:
    """For .safetensors and PyTorch's files, whose values are plain."""
    kept = {k: v for k, v in _kept(opened).items() if k != "format"}
    vocabulary = {k: v for k, v in kept.items() if k.startswith(TOKENIZER_KEY)}
    for key in vocabulary:
        del kept[key]
    if own := _vocabulary(opened):
        kept |= {k: json.dumps(v, ensure_ascii=False) for k, v in own.items()}
    values = {k: v if isinstance(v, str | int | float) else _json(v) for k, v in kept.items()}
    return values | _configs(opened)


def gguf_metadata(
    opened: Checkpoint,
    tensors: Iterable[Outgoing],
    folded: Mapping[str, Sequence[int]],
    architecture: str | None = None,
) -> dict[str, Any]:
    """With the keys by which other programs know a file. `folded` are the true shapes of tensors
    that are stored in another one; `architecture` is what ComfyUI calls the family of a denoiser
    alone, which needs no vocabulary."""
    family = opened.kind.family if opened.kind else None
    metadata: dict[str, Any] = {}
    if family:
        ours = _ARCHITECTURES.get(family, family.partition("-")[0])
        metadata["general.architecture"] = architecture or ours
    number = gguf_output.file_type(tensors)
    if number is not None:
        metadata["general.file_type"] = number
        metadata["general.quantization_version"] = gguf_output.QUANTIZATION_VERSION
    typed = gguf.open(opened.path).typed_metadata if opened.format == "gguf" else {}
    kept = {key: typed.get(key, value) for key, value in _kept(opened).items()}
    if architecture is None and (vocabulary := _vocabulary(opened)):
        kept |= vocabulary
        # llama.cpp's types, where a list of small numbers would be written as u32.
        for name, type in VOCABULARY_TYPES.items():
            if (key := TOKENIZER_KEY + name) in vocabulary:
                kept[key] = gguf.Typed(vocabulary[key], type)
    for name, shape in folded.items():
        kept[FOLDED_KEY + name] = gguf.Typed(list(shape), "i32")
    return metadata | {k: v for k, v in kept.items() if k not in metadata} | _configs(opened)


def _vocabulary(opened: Checkpoint) -> dict[str, Any] | None:
    """The one that a file has room for: T5's, which is in no program, before CLIP's."""
    clip, t5 = own_tokenizer(opened), t5_tokenizer(opened)
    if clip is not None and t5 is not None:
        log.warning(
            "[convert] '%s' has vocabularies of its own for T5 and CLIP, and a file has room for "
            "one: CLIP's is left out",
            opened.path,
        )
    chosen = t5 or clip
    return None if chosen is None else chosen.to_gguf_metadata()


def t5_tokenizer(opened: Checkpoint) -> T5Tokenizer | None:
    """The vocabulary of T5 that a checkpoint brings."""
    layout = layout_of(opened.kind.family) if opened.kind else None
    for name, pad in layout.folder.tokenizers.items() if layout else ():
        if pad is None and name in opened.tokenizer_paths:
            return T5Tokenizer.from_folder(opened.tokenizer_paths[name])
        metadata = metadata_for(opened.metadata, name.replace("tokenizer", "text_encoder"))
        if metadata.get(f"{TOKENIZER_KEY}model") == "t5":
            return T5Tokenizer.from_gguf_metadata(metadata)
    if opened.metadata.get(f"{TOKENIZER_KEY}model") == "t5":  # of T5 alone
        return T5Tokenizer.from_gguf_metadata(opened.metadata)
    return None


def own_tokenizer(opened: Checkpoint) -> CLIPTokenizer | None:
    """The vocabulary that a checkpoint brings, unless it is CLIP's, which everybody has."""
    layout = layout_of(opened.kind.family) if opened.kind else None
    is_clips = layout is None or layout.folder.tokenizers.get("tokenizer", "") is not None
    if is_clips and (folder := opened.tokenizer_paths.get("tokenizer")) is not None:
        tokenizer = CLIPTokenizer.from_folder(folder)
    elif opened.metadata.get(f"{TOKENIZER_KEY}model") == "t5":
        return None
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
        return defaults(opened)
    return {
        key: value
        for key, value in opened.metadata.items()
        if key not in _OF_THE_FILE
        and not key.startswith((FOLDED_KEY, CONFIG_KEY))
        and not _BESIDE.match(key)
    }


def defaults(opened: Checkpoint) -> dict[str, Any]:
    """Steps and guidance that a model says it is best drawn with."""
    return {k: value for k, value in opened.metadata.items() if k.startswith(DEFAULT_KEY)}


def _configs(opened: Checkpoint) -> dict[str, str]:
    return {CONFIG_KEY + name: _json(public(config)) for name, config in opened.configs.items()}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
