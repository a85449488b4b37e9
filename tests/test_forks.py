"""A process that has drawn may fork, and its child draws too: the threads stay with the parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sdcore
from cuda.devices import ONE_ARCHITECTURE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")

BEGIN = """
import os
import signal
import sys
import threading

import numpy as np

import sdcore
from sdcore import _core
from sdcore.graph import Builder, nn


def forked(run):
    # What `run` returns in a child, which then ends as any program does, and in time.
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os.write(into, run())
        sys.exit()
    os.close(into)
    with open(out, "rb") as file:
        result = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return result


def linear(width, **options):
    b = Builder()
    b.output("y", nn.linear(b.weights.layer, b.input("x"), width, width))
    values = np.random.default_rng(1).standard_normal((width, width), dtype=np.float32)
    weights = {
        name: _core.Tensor.from_array(np.resize(values, shape))
        for name, shape in b.graph.weights.items()
    }
    network = _core.Network(b.graph, weights, **options)
    return network, {"x": values[:64]}
"""

PICTURE = """
pipe = sdcore.DiffusionPipeline.open("pocket", threads=2)


def draw(seed=1):
    size = {"width": 64, "height": 64}
    return pipe("a red circle", num_inference_steps=2, seed=seed, **size).images[0].tobytes()


first = draw()
"""


def passes(*code: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(sdcore.__file__).parents[1])}
    command = [sys.executable, "-c", "\n".join((BEGIN, *code))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr


def test_a_child_and_its_child_and_the_parent_draw_the_same() -> None:
    passes(PICTURE, "assert forked(draw) == first", "assert draw() == first")
    passes(PICTURE, "assert forked(lambda: draw() + forked(draw)) == first + first")


def test_a_child_opens_what_the_parent_had_open() -> None:
    passes(
        PICTURE,
        """
def again():
    global pipe
    del pipe
    pipe = sdcore.DiffusionPipeline.open("pocket", threads=2)
    return draw()

assert forked(again) == first
""",
    )


def test_processes_of_multiprocessing_draw() -> None:
    passes(
        PICTURE,
        """
import multiprocessing

with multiprocessing.get_context("fork").Pool(2) as processes:
    assert processes.map_async(draw, [1, 2, 1]).get(60) == [first, draw(2), first]
""",
    )


def test_a_child_draws_with_several_threads() -> None:
    """All at once, so that each finds the pool without threads."""
    passes(
        PICTURE,
        """
from concurrent.futures import ThreadPoolExecutor


def at_once():
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(draw, [1] * 4)) == [first] * 4
    return b"yes"

assert forked(at_once) == b"yes"
""",
    )


def test_a_fork_between_the_steps_of_a_picture() -> None:
    passes(
        """
pipe = sdcore.DiffusionPipeline.open("pocket", threads=2)
stream = pipe.stream("a red circle", num_inference_steps=3, seed=1, width=64, height=64)
next(stream)


def rest():
    for _ in stream:
        pass
    return stream.result().images[0].tobytes()

assert forked(rest) == rest()
"""
    )


@pytest.mark.parametrize("busy", ["network.run(inputs)", "network.run(inputs); network.release()"])
def test_a_fork_while_another_thread_runs(busy: str) -> None:
    """Which holds the pool in the one case, and in the other what keeps prepared weights."""
    passes(
        f"""
network, inputs = linear(1024, threads=2)
run = lambda: network.run(inputs)["y"].tobytes()
first, stopping = run(), threading.Event()


def keep_busy():
    while not stopping.is_set():
        {busy}

other = threading.Thread(target=keep_busy)
other.start()
try:
    assert all(forked(run) == first for _ in range(20))
finally:
    stopping.set()
    other.join()
assert run() == first
"""
    )


def test_a_fork_while_another_thread_holds_a_pipelines_locks() -> None:
    passes(
        PICTURE,
        """
from sdcore.checkpoint import hashes

held, done = threading.Event(), threading.Event()


def hold():
    with pipe._adapters_lock, pipe._words_lock, hashes._lock:
        held.set()
        done.wait()


def use():
    with pipe._words_lock, hashes._lock:
        return draw()

other = threading.Thread(target=hold)
other.start()
held.wait()
try:
    assert forked(use) == first
finally:
    done.set()
    other.join()
assert draw() == first
""",
    )


@pytest.mark.parametrize("device", ONE_ARCHITECTURE)
def test_a_device_stays_with_the_process_that_opened_it(device: str) -> None:
    passes(
        f"""
network, inputs = linear(64, device="{device}")
first = network.run(inputs)["y"]


def refused():
    try:
        network.run(inputs)
    except sdcore.InvalidArgumentError as error:
        return str(error).encode()
    return b"ran"

message = forked(refused)
assert b"was opened before this process was forked" in message and b"spawn" in message, message
np.testing.assert_array_equal(network.run(inputs)["y"], first)
"""
    )
