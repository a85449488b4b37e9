"""Where models lie: in Hugging Face's cache, in several files, in a folder of another layout."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny_models
from sdcore import CheckpointError, DiffusionPipeline, FileError, checkpoint, convert
from tiny_models import PLAIN

NAMES = {"unet", "vae", "text_encoder"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(PLAIN, tmp_path_factory.mktemp("plain") / "model")


def cached(source: Path, cache: Path, revisions: tuple[str, ...] = ("a" * 40,)) -> Path:
    """What huggingface_hub makes of a repository: links into blobs, by revision."""
    root = cache / "models--org--name"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revisions[0])
    for revision in revisions:
        for number, file in enumerate(path for path in source.rglob("*") if path.is_file()):
            blob = root / "blobs" / f"{number:040x}"
            shutil.copy(file, blob)
            link = root / "snapshots" / revision / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return root


def opens(path: Path) -> checkpoint.Checkpoint:
    """As a whole model, with every tensor."""
    opened = checkpoint.open_model(path)
    assert opened.components.keys() == NAMES
    for name, network in (("unet", tiny_models.unet(PLAIN)), ("vae", tiny_models.vae(PLAIN))):
        opened.component(name).weights({k: t.shape for k, t in network.state_dict().items()})
    return opened


def refused(path: Path | str, message: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind, match=message) as caught:
        checkpoint.open(path)
    assert "\n" not in str(caught.value)


# ---- the cache of Hugging Face's programs --------------------------------------------------------


def test_a_folder_of_the_cache(tmp_path: Path, folder: Path) -> None:
    root = cached(folder, tmp_path)
    opened = opens(root)
    assert opened.path == root / "snapshots" / ("a" * 40)
    assert opened.tokenizer_paths["tokenizer"].is_dir()
    pipe = DiffusionPipeline.from_pretrained(root, config=root)
    assert pipe.scheduler.config["skip_prk_steps"] is True
    convert(root, tmp_path / "copy")  # with the tokenizer, which is no link there
    assert opens(tmp_path / "copy").tokenizer_paths["tokenizer"].is_dir()


def test_of_several_snapshots_main_is_taken(tmp_path: Path, folder: Path) -> None:
    root = cached(folder, tmp_path, ("b" * 40, "a" * 40))
    assert opens(root).path.name == "b" * 40
    (root / "refs" / "main").unlink()
    refused(root, f"2 snapshots, .*: give one of {'a' * 40}/, {'b' * 40}/")
    (root / "refs" / "main").write_text("../../elsewhere")
    refused(root, "2 snapshots")
    shutil.rmtree(root / "snapshots" / ("a" * 40))
    assert opens(root).path.name == "b" * 40
    shutil.rmtree(root / "snapshots" / ("b" * 40))
    refused(root, "holds no snapshot: download it again")


def test_one_file_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    tiny_models.save_original(PLAIN, tmp_path / "repository" / "dream.safetensors")
    (tmp_path / "repository" / "README.md").write_text("words")
    assert opens(cached(tmp_path / "repository", tmp_path)).path.name == "dream.safetensors"


def test_what_was_not_downloaded_to_the_end(tmp_path: Path, folder: Path) -> None:
    root = cached(folder, tmp_path)
    weights = root / "snapshots" / ("a" * 40) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.resolve().unlink()
    refused(root, r"model\.safetensors' is a link to a file that is not there: download it again")
    refused(weights, "is a link to a file that is not there")


# ---- what is not there at all --------------------------------------------------------------------


def test_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing is ever downloaded, and the message says how to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    message = "no such file or folder: 'org/name': sdcore downloads nothing; 'hf download org/name'"
    refused("org/name", message, FileError)
    with pytest.raises(FileError, match=message):
        DiffusionPipeline.from_pretrained("org/name")
    refused("https://example.org/x.safetensors", "downloads nothing, so fetch it first", FileError)
    root = cached(folder, tmp_path / ".cache" / "huggingface" / "hub")
    refused("org/name", f"give its folder in Hugging Face's cache, ~/.*{root.name}$", FileError)
    (tmp_path / "models").mkdir()
    for path in ("models/name", "org/name.safetensors", "/org/name", "name"):
        refused(path, f"no such file or folder: '{path}'$", FileError)


# ---- folders of other layouts --------------------------------------------------------------------


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    for name in ("dream.safetensors", "dream.ckpt", "dream.gguf"):
        path = tmp_path / name.partition(".")[2]
        path.mkdir()
        tiny_models.save_original(PLAIN, tmp_path / "x.safetensors")
        convert(tmp_path / "x.safetensors", path / name)
        (path / "README.md").write_text("words")
        (path / "other.bin").mkdir()
        os.mkfifo(path / "pipe.gguf")
        assert opens(path).path == path / name
        (path / "config.json").write_text("{}")
        opens(path)
        convert(path, tmp_path / "y.gguf", overwrite=True)
    (tmp_path / "ckpt" / "other.safetensors").write_bytes(b"")
    (tmp_path / "ckpt" / "config.json").unlink()
    refused(tmp_path / "ckpt", "dream.ckpt, .*other.safetensors, .*; give one of its files")


def sharded(path: Path, stem: str, index: bool = True) -> Path:
    """A model under original names in three files."""
    state = tiny_models.original_state(PLAIN)
    names = sorted(state)
    path.mkdir()
    weight_map = {}
    for i in range(3):
        file = f"{stem}-{i + 1:05}-of-00003.safetensors"
        save_file({name: state[name].contiguous() for name in names[i::3]}, path / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (path / f"{stem}.safetensors.index.json").write_text(text)
    return path


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model", "dream"])
@pytest.mark.parametrize("index", [True, False])
def test_one_model_in_several_files(tmp_path: Path, stem: str, index: bool) -> None:
    path = sharded(tmp_path / "shards", stem, index)
    opened = opens(path)
    assert opened.format == "safetensors"
    opens(path / f"{stem}-00002-of-00003.safetensors")  # one of them stands for all
    if index:
        opens(path / f"{stem}.safetensors.index.json")
    convert(path, tmp_path / "whole.safetensors")
    assert opens(tmp_path / "whole.safetensors").tensors.keys() == opened.tensors.keys()
    (path / f"{stem}-00003-of-00003.safetensors").unlink()
    refused(path, "00003-of-00003.safetensors', which is not there|one of 3 files, of which 2 are")


def test_a_part_in_several_files_without_a_config(tmp_path: Path) -> None:
    tiny_models.save_folder(PLAIN, tmp_path / "model", shard_size="200KB")
    (tmp_path / "model" / "unet" / "config.json").unlink()
    opened = checkpoint.open_model(tmp_path / "model" / "unet")
    assert opened.components.keys() == {"unet"}


def test_a_part_whose_file_has_another_name(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    vae = tmp_path / "model" / "vae"
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "sdxl_vae.safetensors")
    opens(tmp_path / "model")
    assert checkpoint.open(vae).components.keys() == {"vae"}


def test_several_variants_and_no_plain_weights(tmp_path: Path) -> None:
    """Those that are averaged are what a model is drawn with."""
    path = tiny_models.save_folder(PLAIN, tmp_path / "model", variant="fp16", dtype=torch.float16)
    other = tiny_models.save_folder(PLAIN, tmp_path / "other", variant="non_ema")
    file = "unet/diffusion_pytorch_model.{}.safetensors"
    shutil.copy(other / file.format("non_ema"), path / file.format("non_ema"))
    assert opens(path).component("unet").tensors["conv_in.weight"].type == "f16"
    assert opens(other).component("unet").tensors["conv_in.weight"].type == "f32"


def test_json_with_a_mark_of_its_encoding(tmp_path: Path, folder: Path) -> None:
    """Editors of Windows write U+FEFF first."""
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    for file in [*path.rglob("*.json"), *path.rglob("merges.txt")]:
        file.write_text("\ufeff" + file.read_text("utf-8"), "utf-8")
    pipe = DiffusionPipeline.from_pretrained(path, config=path)
    plain = DiffusionPipeline.from_pretrained(folder)
    np.testing.assert_array_equal(pipe.tokenizer("a cat"), plain.tokenizer("a cat"))
