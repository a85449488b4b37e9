"""Hashes of files are those that other tools write, and are made once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcore.checkpoint import hashes

_digest = hashes._digest


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read: list[Path] = []
    monkeypatch.setattr(
        hashes, "_digest", lambda path, kind: (read.append(path), _digest(path, kind))[1]
    )
    return read


def test_a_file_is_hashed_once(tmp_path: Path, hashed: list[Path]) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"x" * 2_500_000)  # more than is read at a time
    assert hashes.known_sha256(path) is None
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashes.sha256(path) == hashes.sha256(path) == hashes.known_sha256(path) == wanted
    (tmp_path / "link").symlink_to(path)
    assert hashes.known_sha256(tmp_path / "link") == wanted
    assert hashed == [path]
    path.write_bytes(b"y" * 2_500_000)  # as large
    os.utime(path, ns=(0, 0))
    assert hashes.known_sha256(path) is None
    assert hashes.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashes.sha256(tmp_path) is None
    assert hashes.sha256(tmp_path / "nowhere") is None


def test_loras_are_known_by_what_comes_after_the_header(tmp_path: Path, hashed: list[Path]) -> None:
    one, other, said = (tmp_path / f"{name}.safetensors" for name in ("one", "other", "said"))
    tensors = {"w": np.arange(6, dtype=np.float32)}
    save_file(tensors, one)
    save_file(tensors, other, {"title": "another header"})
    save_file(tensors, said, {"sshs_model_hash": "ab" * 32})
    body = hashlib.sha256(tensors["w"].tobytes()).hexdigest()
    assert hashes.known_lora_hash(one) is None
    assert hashes.lora_hash(one) == hashes.lora_hash(other) == hashes.known_lora_hash(one) == body
    assert hashes.lora_hash(said) == hashes.known_lora_hash(said) == "ab" * 32
    assert hashes.sha256(one) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert hashed == [one, other, one]
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    assert hashes.known_lora_hash(tmp_path / "bad.safetensors") is None


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"sha256": 5}', b'{"sha256": {"PATH": [1]}}', b"\xff", b"[" * 99_999]
)
def test_a_cache_that_is_none(tmp_path: Path, hashed: list[Path], content: bytes) -> None:
    path, cache = tmp_path / "model.ckpt", tmp_path / "cache" / "sdcore" / "hashes.json"
    path.write_bytes(b"x")
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content.replace(b"PATH", os.fsencode(path)))
    assert hashes.known_sha256(path) is None
    wanted = hashlib.sha256(b"x").hexdigest()
    assert hashes.sha256(path) == hashes.known_sha256(path) == wanted
    assert json.loads(cache.read_bytes())["sha256"][str(path)][2] == wanted


def test_where_nothing_can_be_kept(tmp_path: Path, hashed: list[Path]) -> None:
    (tmp_path / "cache").write_bytes(b"no folder")
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"x")
    for _ in range(2):
        assert hashes.sha256(path) == hashlib.sha256(b"x").hexdigest()
    assert hashed == [path]  # by this program once
