"""One network out of a model, for files that hold one each: `single_part`."""

from __future__ import annotations

from typing import Any

from sdcore.checkpoint.files import Contents
from sdcore.checkpoint.folder import DENOISERS
from sdcore.checkpoint.model import Checkpoint
from sdcore.checkpoint.sidecars import own_tokenizer, t5_tokenizer

__all__ = ["single_part"]


def single_part(opened: Checkpoint, name: str) -> Checkpoint:
    """As if the part's own folder had been opened, with what is known of it elsewhere: a
    denoiser's schedule, a text encoder's vocabulary. CheckpointError if there is no such part."""
    part = opened.component(name)
    role = "text_encoder" if name.startswith("text_encoder") else name
    configs: dict[str, dict[str, Any]] = {role: part.config}
    metadata: dict[str, Any] = {}
    if role in DENOISERS:
        configs["scheduler"] = opened.scheduler_config
    elif role == "text_encoder":
        is_t5 = "T5EncoderModel" in (part.config.get("architectures") or ())
        tokenizer = t5_tokenizer(opened) if is_t5 else own_tokenizer(opened)
        metadata = tokenizer.to_gguf_metadata() if tokenizer else {}
    tensors = {f"{role}.{key}": tensor for key, tensor in part.tensors.items()}
    return Checkpoint(opened.path, Contents("diffusers", tensors, metadata, configs))
