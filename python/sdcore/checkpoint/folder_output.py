"""Writing diffusers' folders, as from_pretrained of diffusers and transformers opens them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdcore.checkpoint import safetensors
from sdcore.checkpoint.family import Folder
from sdcore.checkpoint.layouts import layout_of
from sdcore.checkpoint.model import Checkpoint, Component
from sdcore.checkpoint.output import Outgoing, Progress, beside
from sdcore.checkpoint.sidecars import defaults, own_tokenizer, public, t5_tokenizer
from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import FileError, SDCoreError, UnsupportedModelError
from sdcore.tokenizer import CLIPTokenizer

log = logging.getLogger("sdcore")

# The version of diffusers that these folders are written after.
_VERSION = "0.42.0"
# Classes of transformers, and what its configs call them.
_TRANSFORMERS = {
    "CLIPTextModel": "clip_text_model",
    "CLIPTextModelWithProjection": "clip_text_model",
    "CLIPVisionModelWithProjection": "clip_vision_model",
    "T5EncoderModel": "t5",
}
# What makers have in their files, and diffusers computes, or asks T5 or a config for.
_NOT_OF_CLASS = {
    "PixArtTransformer2DModel": ("pos_embed.pos_embed", "caption_projection.y_embedding"),
    "SD3ControlNetModel": ("control_type",),  # its config says it
}
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, that gets its name when all went well. One that is there is replaced."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileError(f"[file] cannot write folder '{path}': it is a file")
    target = path.resolve()
    temporary = beside(target, "partial")
    try:
        temporary.mkdir()
        yield temporary
        if target.is_dir():
            old = beside(target, "old")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    except OSError as error:
        if isinstance(error, SDCoreError):
            raise
        raise FileError(f"[file] cannot write folder '{path}': {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def folder_tensors(opened: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part under diffusers' names, those that its class has."""
    if len(opened.components) != 1:
        _folder(opened)  # which refuses what has none
    return {name: _of_class(part) for name, part in opened.components.items()}


def write_folder(
    opened: Checkpoint,
    path: Path,
    parts: Mapping[str, Sequence[Outgoing]],
    progress: Progress | None = None,
) -> None:
    """A part alone goes into the folder itself, with its config."""
    with whole_folder(path) as folder:
        if len(parts) == 1:
            for name, tensors in parts.items():
                _write_part(folder, opened.component(name), tensors, progress)
            return
        layout = _folder(opened)
        for name, tensors in parts.items():
            _write_part(folder / name, opened.component(name), tensors, progress)
        _write_tokenizers(folder, opened, layout)
        scheduler = public(opened.scheduler_config)
        _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        index = _index(opened, layout, {path.name for path in folder.iterdir()})
        _copy_others(folder, opened, index)
        _write_json(folder / "model_index.json", index)


def _folder(opened: Checkpoint) -> Folder:
    layout = layout_of(opened.kind.family) if opened.kind else None
    if layout is None or not opened.components:
        raise UnsupportedModelError(
            f"[convert] '{opened.path}' holds {opened.title}, which sdcore cannot write as a "
            "diffusers folder: name a file, such as model.safetensors"
        )
    return layout.folder


def _of_class(part: Component) -> dict[str, Tensor]:
    """Without what an original text encoder has more: layers after the last that is run, and a
    projection where nothing is pooled."""
    if others := _NOT_OF_CLASS.get(str(part.config.get("_class_name"))):
        return {name: t for name, t in part.tensors.items() if name not in others}
    layers = part.config.get("num_hidden_layers")
    if layers is None:
        return part.tensors
    projects = "CLIPTextModelWithProjection" in (part.config.get("architectures") or ())

    def belongs(name: str) -> bool:
        match = _LAYER.match(name)
        return int(match[1]) < layers if match else projects or name != "text_projection.weight"

    return {name: tensor for name, tensor in part.tensors.items() if belongs(name)}


def _write_part(
    folder: Path, part: Component, tensors: Sequence[Outgoing], progress: Progress | None
) -> None:
    folder.mkdir(exist_ok=True)
    config = public(part.config)
    is_encoder = part.name.startswith(("text_encoder", "image_encoder"))
    if is_encoder:
        classes = part.config.get("architectures") or ["CLIPTextModel"]
        config = {"model_type": _TRANSFORMERS.get(classes[0], "clip_text_model")} | config
    _write_json(folder / "config.json", config)
    stem = "model" if is_encoder else "diffusion_pytorch_model"
    safetensors.write(folder / f"{stem}.safetensors", tensors, {"format": "pt"}, progress)


def _write_tokenizers(folder: Path, opened: Checkpoint, layout: Folder) -> None:
    if opened.format == "diffusers":
        for name in layout.tokenizers:
            if (opened.path / name).is_dir():
                shutil.copytree(opened.path / name, folder / name)
        return
    own, t5 = own_tokenizer(opened), t5_tokenizer(opened)
    for name, pad in layout.tokenizers.items():
        if name.replace("tokenizer", "text_encoder") not in opened.components:
            continue
        if pad is not None:
            tokenizer = own if own is not None else CLIPTokenizer.default(pad=pad)
            tokenizer.save_folder(folder / name)
        elif t5 is not None:
            t5.save_folder(folder / name)
        else:
            log.warning(
                "[convert] '%s' brings no vocabulary of T5: the folder lacks its %s/",
                opened.path,
                name,
            )


def _index(opened: Checkpoint, layout: Folder, there: set[str]) -> dict[str, Any]:
    source = opened.metadata if opened.format == "diffusers" else {}
    if source:
        return dict(source)
    index: dict[str, Any] = {"_class_name": layout.pipeline, "_diffusers_version": _VERSION}
    for name, usual in layout.components.items():
        part = opened.components.get(name)
        cls = usual if part is None else part.config.get("_class_name", usual)
        library = "transformers" if cls in _TRANSFORMERS else "diffusers"
        index[name] = [library, cls] if name in there else [None, None]
    for name, pad in layout.tokenizers.items():
        kind = "T5TokenizerFast" if pad is None else "CLIPTokenizer"
        index[name] = ["transformers", kind] if name in there else [None, None]
    index["scheduler"] = ["diffusers", opened.scheduler_config["_class_name"]]
    absent = {name: [None, None] for name in layout.absent}
    return index | absent | layout.options | defaults(opened)


def _copy_others(folder: Path, opened: Checkpoint, index: Mapping[str, Any]) -> None:
    """What a pipeline has beside the networks: safety checker, feature extractor."""
    if opened.format != "diffusers":
        return
    for name in index:
        # The index is a file's: its names must not lead out of either folder.
        if not name.isidentifier() or name.startswith("_"):
            continue
        source, target = opened.path / name, folder / name
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
