"""Models that are split into several GGUF files, by the gguf package as by llama.cpp's tool."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import sdcore
from sdcore import checkpoint
from sdcore.gguf import Typed
from sdcore.server.models import models_in

NAMES = [f"layer.{i}.weight" for i in range(5)]
FOLDED = "comfy.gguf.orig_shape."


def array(i: int) -> np.ndarray:
    return np.arange(64, dtype=np.float32).reshape(2, 32) + 100 * i


def split(folder: Path, empty_first: bool = False) -> list[Path]:
    """Two tensors a file, or none in the first one."""
    writer = gguf.GGUFWriter(
        folder / "model.gguf", "sd1", split_max_tensors=2, small_first_shard=empty_first
    )
    writer.add_string("general.name", "five layers")
    writer.add_array(FOLDED + NAMES[4], [4, 16])
    for i, name in enumerate(NAMES):
        writer.add_tensor(name, array(i))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def rewritten(path: Path, **changes: Any) -> None:
    """With other metadata under these keys of the split."""
    file = sdcore.gguf._open(path)
    changed = {
        f"split.{key.replace('_', '.')}": Typed(value, "u16") for key, value in changes.items()
    }
    sdcore.gguf.write(path, {**file.typed_metadata, **changed}, file.tensors)


@pytest.mark.parametrize("empty_first", [False, True])
def test_any_file_gives_the_whole(tmp_path: Path, empty_first: bool) -> None:
    files = split(tmp_path, empty_first)
    assert len(files) == 3 + empty_first
    assert files[1].name == f"model-00002-of-0000{len(files)}.gguf"
    for path in files:
        file = sdcore.gguf.open(path)
        assert sorted(file.tensors) == NAMES
        for i, name in enumerate(NAMES):
            np.testing.assert_array_equal(sdcore.dequantize(file.tensors[name]), array(i))
        assert file.metadata["general.name"] == "five layers"
        assert not any(key.startswith("split.") for key in file.metadata)
    # What the first file says of a tensor holds where the tensor lies in another one.
    for path in (*files, tmp_path):
        opened = checkpoint.open(path)
        assert opened.tensors[NAMES[4]].shape == (4, 16)
    assert [path.name for path in models_in(tmp_path, "model_index.json")] == [files[0].name]


def test_a_copy_is_one_file(tmp_path: Path) -> None:
    file = sdcore.gguf.open(split(tmp_path)[2])
    sdcore.gguf.write(tmp_path / "whole.gguf", file.typed_metadata, file.tensors)
    again = sdcore.gguf.open(tmp_path / "whole.gguf")
    assert again.tensors.keys() == file.tensors.keys()
    assert again.typed_metadata == file.typed_metadata


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_file_that_is_missing_is_named(tmp_path: Path, gone: int) -> None:
    files = split(tmp_path)
    files[gone].unlink()
    says = (
        f"is one of 3 files .* 'model-0000{gone + 1}-of-00003.gguf' is not beside it: download it"
    )
    for path in (files[gone - 1], tmp_path):
        with pytest.raises(sdcore.CheckpointError, match=says):
            checkpoint.open(path)


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    files = split(tmp_path)

    def refused(path: Path, says: str) -> None:
        with pytest.raises(sdcore.CheckpointError, match=says):
            sdcore.gguf.open(path)

    alone = tmp_path / "part.gguf"
    shutil.copy(files[1], alone)
    refused(alone, r"one of 3 files that are one model, and is not named so: .*-of-00003\.gguf")
    kept = files[1].read_bytes()
    shutil.copy(files[2], files[1])
    refused(files[0], "00002-of-00003.gguf' holds part 3 of 3, and is named as another")
    files[1].write_bytes(kept)
    rewritten(files[0], tensors_count=6)
    refused(files[2], "hold 5 tensors of the 6 of their model")
    rewritten(files[1], no=7)
    refused(files[0], "holds part 8 of 3")
    # What says nothing of a split is a file by itself, whatever it is called.
    sdcore.gguf.write(files[0], {"split.count": "three"}, {"a": array(0)})
    assert sdcore.gguf.open(files[0]).tensors.keys() == {"a"}
