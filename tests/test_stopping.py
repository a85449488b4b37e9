"""A run ends when it is told to, and not as a black picture when its numbers are none."""

import signal
import threading

import numpy as np
import pytest

import sdcore
from sdcore import _core
from sdcore.graph import Builder


@pytest.fixture(scope="module")
def pipe():
    return sdcore.DiffusionPipeline.open("pocket")


@pytest.fixture
def network():
    builder = Builder()
    x = builder.input("x")
    builder.output("y", x + x)
    return _core.Network(builder.graph, {})


def test_a_flag_ends_the_runs_of_its_thread(network):
    inputs = {"x": np.ones((1, 4), np.float32)}
    flag, other = _core.StopFlag(), _core.StopFlag()
    flag.set()
    assert flag.is_set
    with flag:
        with other:
            network.run(inputs)
        elsewhere = threading.Thread(target=network.run, args=(inputs,))
        elsewhere.start()
        elsewhere.join()
        with pytest.raises(sdcore.CancelledError, match="stopped by the caller"):
            network.run(inputs)
    assert np.array_equal(network.run(inputs)["y"], [[2, 2, 2, 2]])


def test_a_stopped_stream_makes_no_step_and_no_picture(pipe):
    wanted = {"num_inference_steps": 2, "seed": 1, "width": 64, "height": 64}
    before = pipe("a red circle", **wanted).images[0]
    stream = pipe.stream("a red circle", **wanted)
    next(stream)
    stream.stop()
    with pytest.raises(sdcore.CancelledError):
        next(stream)
    with pytest.raises(sdcore.CancelledError):
        stream.result()
    assert np.array_equal(before, pipe("a red circle", **wanted).images[0])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_a_signal_is_heard_within_a_step(pipe):
    """Whose own time would be many times that of the signal."""

    class Heard(Exception):
        pass

    def hear(*_):
        raise Heard

    before = signal.signal(signal.SIGALRM, hear)
    steps = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Heard):
            for step in pipe.stream("", num_inference_steps=1, width=2048, height=2048):
                steps.append(step)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not steps


def test_what_is_no_number_is_an_error(pipe):
    wanted = {"num_inference_steps": 3, "width": 64, "height": 64}
    with pytest.raises(sdcore.NumericalError, match="what step 2 of 3 made is not all finite"):
        pipe("a red circle", guidance_scale=1e38, **wanted)
    latents = np.full((1, 4, 8, 8), np.nan, np.float32)
    with pytest.raises(sdcore.NumericalError, match="what the VAE made"):
        pipe.to_pil(latents)
