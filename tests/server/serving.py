"""A server in a thread, and pictures as they travel."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette

import sdcore
from sdcore.cli.serve import _listener
from sdcore.server.app import Server
from sdcore.server.state import State

SMALL = {"width": 16, "height": 24, "steps": 3, "seed": 7}
# Minutes of work, which nobody waits for.
LONG = {"prompt": "a cat", "width": 16, "height": 16, "steps": 900, "sampler_name": "Euler"}
LONG |= {"n_iter": 60}


def opened(path: Path, folder: Path) -> sdcore.DiffusionPipeline:
    pipe = sdcore.DiffusionPipeline.open(path, dtype="f32", threads=1)
    pipe.lora_dir, pipe.embedding_dir = folder / "loras", folder / "words"
    return pipe


class Running:
    """`with Running(app) as server`: it answers at `server.url`."""

    def __init__(self, app: Starlette) -> None:
        self.state: State = app.state.sdcore
        self._listener = _listener("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = Server(app)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))

    def __enter__(self) -> Running:
        self._thread.start()
        self.wait_until(lambda: self._server.started)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self.state.jobs.join()
        assert not self._thread.is_alive()

    @staticmethod
    def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "it did not come to pass"
            time.sleep(0.01)
        return found


def sent(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def read(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def pixels(text: str) -> np.ndarray:
    return np.asarray(read(text).convert("RGB"))


def photo(width: int = 16, height: int = 24) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)
