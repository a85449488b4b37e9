"""Models in several files: an index that says what lies in which, or their names alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdcore.checkpoint.files import Contents, read_file, read_json
from sdcore.checkpoint.place import INDEX, SHARD, sole_weights
from sdcore.checkpoint.tensor import Tensor
from sdcore.errors import CheckpointError

__all__ = ["read_index", "read_shards", "read_sole_weights", "shards_of"]


def read_sole_weights(folder: Path) -> Contents:
    """Of a folder that has such (`sole_weights`)."""
    return read_shards(sole_weights(folder))


def shards_of(path: Path) -> Sequence[Path]:
    """All files of the model that a file is an index or a part of: the index, if there is one; and
    nothing, if it is a model by itself."""
    if path.name.endswith(INDEX):
        return [path]
    match = SHARD.fullmatch(path.name)
    if match is None or match["ending"] == ".gguf":
        return []
    index = path.with_name(f"{match['stem']}{match['ending']}{INDEX}")
    if index.is_file():
        return [index]
    beside = (SHARD.fullmatch(other.name) for other in sorted(path.parent.iterdir()))
    alike = (m for m in beside if m and all(m[k] == match[k] for k in ("stem", "count", "ending")))
    return [path.with_name(m[0]) for m in alike]


def read_shards(paths: Sequence[Path]) -> Contents:
    """An index, a file, or all files of a model. CheckpointError where some are not there."""
    first = paths[0]
    if first.name.endswith(INDEX):
        format = "safetensors" if ".safetensors." in first.name else "pickle"
        return Contents(format, read_index(first))
    contents = read_file(first)
    match = SHARD.fullmatch(first.name)
    if match is None:
        return contents
    if len(paths) != int(match["count"]):
        raise CheckpointError(
            f"[checkpoint] '{first}' is one of {int(match['count'])} files, of which "
            f"{len(paths)} are there: download the others"
        )
    for path in paths[1:]:
        contents.tensors |= read_file(path).tensors
    return contents


def read_index(index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"[checkpoint] '{index}' has no weight_map")
    shards: dict[str, dict[str, Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"[checkpoint] '{index}' names no file for '{key}': {name!r:.80}")
        if name not in shards:
            path = index.parent / name
            if not path.is_file():
                raise CheckpointError(f"[checkpoint] '{index}' names '{name}', which is not there")
            shards[name] = read_file(path).tensors
        if key not in shards[name]:
            raise CheckpointError(f"[checkpoint] '{index}' puts '{key}' into '{name}': not there")
        tensors[key] = shards[name][key]
    return tensors
