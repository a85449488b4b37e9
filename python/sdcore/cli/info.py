"""`sdcore info`: what a file is, what running it takes, and what this machine is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sdcore
from sdcore import _core
from sdcore.cli.model import found, in_flags
from sdcore.image_io import Infotext, picture_format, read_png_parameters

if TYPE_CHECKING:
    from sdcore.checkpoint import Checkpoint

NAME = "info"
HELP = "tell what a model file, a picture or this machine is"
EXAMPLES = """\
examples:
  sdcore info
  sdcore info model.safetensors
  sdcore info model.gguf --plan 512x512
  sdcore info folder --json
  sdcore info picture.png
"""
_MAX_VALUE = 100  # characters of a metadata value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "file",
        nargs="?",
        metavar="FILE",
        type=found,
        help="a model file or folder, 'pocket', or a picture; none: this machine",
    )
    add("--json", action="store_true", help="for programs")
    add("--plan", type=_size, metavar="WxH", help="memory and work for a picture of this size")
    add("--dtype", choices=("auto", "f32", "bf16"), default="auto", help="for --plan")
    add("-v", "--verbose", action="store_true", help="say more, with tracebacks of faults")


def run(args: argparse.Namespace) -> None:
    if args.file is None:
        if args.plan:
            args.parser.error("--plan needs a FILE")
        facts, text = _machine(), _machine_text
    elif picture_format(Path(args.file)):
        facts, text = _picture(args.file), _picture_text
    else:
        facts, text = _file(args), _file_text
    print(json.dumps(facts, indent=2, default=str) if args.json else "\n".join(text(facts)))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX×](\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 512x512")
    return int(match[1]), int(match[2])


# ---- the machine ---------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    from sdcore import quantization, schedulers

    return {
        "version": sdcore.__version__,
        "isa": _core.default_isa(),
        "isas": _core.supported_isas(),
        "cpu_features": [name for name, there in sdcore.cpu_features().items() if there],
        "threads": _core.available_cpus(),
        "number_formats": [row["name"] for row in quantization.types()],
        "schedulers": schedulers.names(),
    }


def _machine_text(facts: Mapping[str, Any]) -> Iterable[str]:
    yield f"sdcore {facts['version']}"
    rows = [
        ("kernels", f"{facts['isa']} (of {', '.join(facts['isas'])}; SDCORE_ISA forces one)"),
        ("processor", " ".join(facts["cpu_features"])),
        ("threads", str(facts["threads"])),
        ("number formats", " ".join(facts["number_formats"])),
        ("schedulers", " ".join(facts["schedulers"])),
    ]
    yield from _table(rows)


# ---- a picture -----------------------------------------------------------------------------------


def _picture(file: str) -> dict[str, Any]:
    text = read_png_parameters(Path(file))
    facts = dataclasses.asdict(Infotext.parse(text)) if text else {}
    return {"path": file, "format": picture_format(Path(file)), "text": text, **facts}


def _picture_text(facts: Mapping[str, Any]) -> Iterable[str]:
    yield f"{facts['path']}: a picture ({facts['format']})"
    yield facts["text"] or "  without settings"


# ---- a file --------------------------------------------------------------------------------------


def _file(args: argparse.Namespace) -> dict[str, Any]:
    from sdcore import checkpoint

    opened = checkpoint.open(args.file)
    facts = dataclasses.asdict(opened.summary())
    facts["tensors"] = len(opened.tensors)
    facts |= _readiness(opened)
    facts["metadata"] = opened.metadata
    if args.plan:
        facts["plan"] = _plan(args, opened)
    return facts


def _readiness(opened: Checkpoint) -> dict[str, Any]:
    """Whether it runs, and else why not (`hint`); of one that does, by part what is wrong with its
    own (`needs`), in whose place another has to be given."""
    from sdcore.checkpoint.folder import DENOISERS
    from sdcore.pipelines import DiffusionPipeline
    from sdcore.pipelines.loading import faults, part_fault

    if opened.kind is None or not opened.kind.about.runs:
        hint = opened.kind.about.hint if opened.kind else ""
        return {"runs": False, "hint": _untagged(part_fault(opened) or hint), "needs": {}}
    source = str(opened.path)
    family = DiffusionPipeline.registry[opened.kind.family]
    found = {
        part: _untagged(in_flags(message, source))
        for part, message in faults(opened, family.wanted()).items()
    }
    hint = next((found[part] for part in DENOISERS if part in found), "")
    return {"runs": not hint, "hint": hint, "needs": {} if hint else found}


def _untagged(message: str) -> str:
    """Without the place that an error names first."""
    return re.sub(r"^\[\w+\] ", "", message)


def _plan(args: argparse.Namespace, opened: Checkpoint) -> dict[str, Any]:
    from sdcore import checkpoint
    from sdcore.pipelines.plan import plan

    width, height = args.plan
    if not (opened.kind and opened.kind.about.runs):
        checkpoint.open_model(args.file)  # says what it is instead
    return plan(opened, width, height, args.dtype)


def _file_text(facts: Mapping[str, Any]) -> Iterable[str]:
    yield f"{facts['path']}: {facts['title']} ({facts['format']})"
    rows = [("recognised by", facts["why"] or "nothing: no tensor is known")]
    if facts["family"]:
        rows.append(("runs", _runs(facts)))
        rows += ((f"  {part}", why) for part, why in facts["needs"].items())
    rows.append(("tensors", f"{facts['tensors']} of {_bytes(facts['bytes'])}"))
    if not facts["parts"]:
        rows.append(("types", _counts(facts["types"])))
    if facts["parts"] and facts["passed_over"]:
        rows.append(("of no part", str(facts["passed_over"])))
    yield from _table(rows)
    if facts["parts"]:
        yield ""
        yield from _table(_part_rows(facts["parts"]), right=(2, 3, 4))
    if facts["metadata"]:
        yield ""
        yield "metadata"
        yield from _table([(key, _short(value)) for key, value in facts["metadata"].items()])
    if "plan" in facts:
        yield ""
        yield from _plan_text(facts["plan"])


def _runs(facts: Mapping[str, Any]) -> str:
    if not facts["runs"]:
        return f"no: {facts['hint']}"
    return "yes, with parts from elsewhere:" if facts["needs"] else "yes"


def _part_rows(parts: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, ...]]:
    yield "part", "names", "tensors", "parameters", "size", "types"
    for part in parts:
        yield (
            part["name"],
            part["naming"],
            str(part["tensors"]),
            f"{part['parameters'] / 1e6:,.2f} M",
            _bytes(part["bytes"]),
            _counts(part["types"]),
        )


def _counts(types: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ×{count}" for name, count in types.items())


def _plan_text(plan: Mapping[str, Any]) -> Iterable[str]:
    yield f"plan for {plan['width']}x{plan['height']} in {plan['dtype']}"
    rows = [("network", "batch", "weights", "arena", "work", "steps")]
    for name, part in plan["networks"].items():
        work = f"{part['flops'] / 1e9:,.1f} GFLOP"
        sizes = _bytes(part["weight_bytes"]), _bytes(part["arena_bytes"])
        rows.append((name, str(part["batch"]), *sizes, work, str(part["ops"])))
    yield from _table(rows, right=(1, 2, 3, 4, 5))
    weights, arena = _bytes(plan["weight_bytes"]), _bytes(plan["arena_bytes"])
    yield f"  weights {weights} and the largest arena {arena}"


def _table(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> Iterable[str]:
    """Columns two spaces apart; those in `right` end together."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield ("  " + "  ".join(cells)).rstrip()


def _short(value: object) -> str:
    """A metadata value in one line; vocabularies are lists of tens of thousands."""
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} values"
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1e3:.2f} kB"
