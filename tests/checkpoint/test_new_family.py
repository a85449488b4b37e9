"""A family of models is added by adding files: nothing that is there already is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import sdcore

FAMILY = """
from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import DENOISER, Family, Naming, Place
from sdcore.checkpoint.names import unet
from sdcore.checkpoint.sizes import size

def config(tensors):
    return {"channels": size(tensors, r"conv_in\\.weight", 1)}

FAMILIES = {
    "doubler": Family(
        "a doubler",
        ("doubler",),
        "doubler.DoublerPipeline",
        scheduler={"_class_name": "LCMScheduler"},
        configs={"doubler": {"hidden": 32}},
        infer={"doubler": config},
        places=(Place("doubler", DENOISER, (Naming("own", ("twice.",), unet.diffusers),)),),
    )
}
RULES = (("doubler", (Clue(r"\\.twice\\.weight$"),)),)
"""
PIPELINE = """
from sdcore.pipelines.pipeline import DiffusionPipeline

class DoublerPipeline(DiffusionPipeline):
    pass
"""
CODE = """
import sys
# An editable install finds its own sdcore before PYTHONPATH is looked at.
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
import numpy as np
import sdcore
from sdcore import checkpoint

tensors = {"twice.weight": (4, 3), "conv_in.weight": (5, 7, 3, 3)}
sdcore.gguf.write(sys.argv[1], {}, {
    f"model.diffusion_model.{name}": np.zeros(shape, np.float32)
    for name, shape in tensors.items()
})
opened = checkpoint.open_model(sys.argv[1])
print(opened.kind.family, opened.component("doubler").config, opened.scheduler_config)
print(sdcore.DiffusionPipeline.registry["doubler"].__name__)
"""


def shadow(package: Path, folder: Path, inside: Path) -> Path:
    """`package` in `folder`, made of links but for the folder `inside`, whose files are linked."""
    folder.mkdir()
    for child in package.iterdir():
        if inside == child or child in inside.parents:
            shadow(child, folder / child.name, inside)
        elif child.name != "__pycache__":
            (folder / child.name).symlink_to(child)
    return folder


def test_a_family_is_files_of_its_own(tmp_path: Path) -> None:
    package = Path(sdcore.__file__).parent
    first = shadow(package, tmp_path / "sdcore", package / "checkpoint" / "families")
    (first / "checkpoint" / "families" / "doubler.py").write_text(FAMILY)
    families = first / "pipelines"
    families.unlink()
    shadow(package / "pipelines", families, package / "pipelines" / "families")
    (families / "families" / "doubler.py").write_text(PIPELINE)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "m.gguf")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "doubler {'channels': 7, 'hidden': 32} {'_class_name': 'LCMScheduler'}",
        "DoublerPipeline",
    ]
