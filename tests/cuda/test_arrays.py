"""Arrays that stay on a device, and what is shared with other libraries without a copy.

The emulation's memory is the program's, so NumPy and PyTorch on the CPU play the library that
shares it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
from cuda.devices import ONE_ARCHITECTURE, Array, normal, rng
from sdcore import DeviceArray, InvalidArgumentError, _core
from sdcore.graph import Builder, nn

KINDS = {"f32": np.float32, "f16": np.float16, "i32": np.int32}


@pytest.fixture(params=ONE_ARCHITECTURE)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network(device: str, dtype: str = "f32") -> Any:
    """Three times x is "out", and its relu "side"."""
    b = Builder()
    x = b.input("x")
    b.output("out", x.apply("scale", factor=3.0))
    b.output("side", nn.activation(x, "relu"))
    return _core.Network(b.graph, {}, dtype=dtype, device=device)


def on_device(array: torch.Tensor, device: str) -> torch.Tensor:
    return array if device.startswith("emulated") else array.to(device)


def address(array: DeviceArray) -> int:
    place: int = array.__cuda_array_interface__["data"][0]
    return place


@pytest.mark.parametrize("shape", [(), (1,), (5, 3), (2, 0, 4), (2, 3, 5, 7)], ids=str)
@pytest.mark.parametrize("kind", list(KINDS))
def test_there_and_back(device: str, kind: str, shape: tuple[int, ...]) -> None:
    values = np.asarray(100 * normal(rng(*shape), *shape)).astype(KINDS[kind])
    array = DeviceArray.from_numpy(values, device)
    assert (array.shape, array.dtype, array.nbytes) == (shape, kind, values.nbytes)
    assert array.device.startswith(device) and kind in repr(array)
    for back in (array.numpy(), np.asarray(array)):
        assert back.dtype == KINDS[kind]
        np.testing.assert_array_equal(back, values)
    assert np.asarray(array, np.float64).dtype == np.float64


def test_other_types_become_those_that_kernels_have(device: str) -> None:
    for kind, wanted in (
        ("int64", "i32"),
        ("bool", "i32"),
        ("longdouble", "f32"),
        ("float64", "f32"),
    ):
        array = DeviceArray.from_numpy(np.ones((2, 3), kind).T, device)
        assert (array.dtype, array.shape) == (wanted, (3, 2))
        assert (array.numpy() == 1).all()


def test_another_library_sees_the_same_memory(device: str) -> None:
    array = DeviceArray.from_numpy(normal(rng(), 4, 6), device)
    tensor = torch.from_dlpack(array)
    assert tensor.data_ptr() == address(array)
    tensor[1, 2] = 77.0
    assert array.numpy()[1, 2] == 77.0
    if device.startswith("emulated"):
        seen = np.from_dlpack(array)
        assert seen.__array_interface__["data"][0] == address(array)
        assert seen.flags.writeable and seen[1, 2] == 77.0
    # It outlives what lent it.
    values = array.numpy()
    del array
    gc.collect()
    np.testing.assert_array_equal(tensor.cpu().numpy(), values)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "int32"])
def test_the_memory_of_another_library_is_shared(device: str, kind: str) -> None:
    tensor = on_device(torch.arange(12).reshape(3, 4).to(getattr(torch, kind)), device)
    array = DeviceArray.share(tensor, device)
    assert array.shape == (3, 4)
    tensor[2, 1] = -5
    assert array.numpy()[2, 1] == -5
    assert torch.from_dlpack(array).data_ptr() == tensor.data_ptr()
    part = DeviceArray.share(tensor[1:], device)  # begins inside
    assert part.numpy()[1, 1] == -5
    kept = part.numpy()
    del tensor, array
    gc.collect()
    np.testing.assert_array_equal(part.numpy(), kept)


class CudaArray:
    """What CuPy's arrays tell of themselves, of memory that a tensor holds."""

    def __init__(self, tensor: torch.Tensor, **more: Any) -> None:
        self.tensor = tensor
        kinds = {torch.float32: "<f4", torch.float16: "<f2", torch.int32: "<i4"}
        kind = kinds.get(tensor.dtype, "<f8")
        place = {"shape": tuple(tensor.shape), "typestr": kind, "data": (tensor.data_ptr(), False)}
        self.__cuda_array_interface__ = place | {"version": 3} | more


def test_what_has_a_cuda_array_interface(device: str) -> None:
    tensor = on_device(torch.arange(6.0).reshape(2, 3), device)
    for more in ({}, {"stream": None}, {"stream": 1}, {"strides": (12, 4)}):
        owner = CudaArray(tensor, **more)
        alive = weakref.ref(owner)
        array = DeviceArray.share(owner, device)
        assert address(array) == tensor.data_ptr()
        del owner
        assert alive() is not None
        np.testing.assert_array_equal(array.numpy(), [[0, 1, 2], [3, 4, 5]])
        del array
        assert alive() is None
    told = DeviceArray.share(CudaArray(tensor), device).__cuda_array_interface__
    assert told == {
        "shape": (2, 3),
        "typestr": "<f4",
        "data": (tensor.data_ptr(), False),
        "strides": None,
        "stream": None,
        "version": 3,
    }
    halves = DeviceArray.share(on_device(torch.zeros(2).bfloat16(), device), device)
    assert not hasattr(halves, "__cuda_array_interface__")


def test_what_cannot_be_shared_is_said(device: str) -> None:
    tensor = on_device(torch.zeros(2, 3), device)
    for given, why in (
        (tensor.T, r"an array of \[3, 2\] must lie in memory in that order.*contiguous copy"),
        (tensor.double(), "must be float32, bfloat16, float16 or int32"),
        (CudaArray(tensor, strides=(4, 8)), "contiguous copy"),
        (CudaArray(tensor.double()), "got <f8"),
        ([1.0, 2.0], "DeviceArray.from_numpy copies all else"),
    ):
        with pytest.raises(InvalidArgumentError, match=why):
            DeviceArray.share(given, device)
    with pytest.raises(InvalidArgumentError, match="on the CPU use NumPy"):
        DeviceArray.from_numpy(np.zeros(2), "cpu")
    array = DeviceArray.from_numpy(np.zeros(2), device)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(array, copy=False)
    for wanted in ({"copy": True}, {"dl_device": (99, 0)}):
        with pytest.raises(BufferError, match="numpy"):
            array.__dlpack__(**wanted)


def test_read_only_memory_stays_so() -> None:
    values = np.arange(3, dtype=np.float32)
    values.flags.writeable = False
    if "emulated" not in _devices():
        pytest.skip("not built in")
    array = DeviceArray.share(values, "emulated")
    assert not np.from_dlpack(array).flags.writeable
    assert array.__cuda_array_interface__["data"] == (values.ctypes.data, True)
    with pytest.raises(BufferError, match="read-only"):
        array.__dlpack__()


def _devices() -> list[str]:
    from cuda.devices import DEVICES

    return DEVICES


def test_arrays_in_and_out_of_networks(device: str, dtype: str) -> None:
    net = network(device, dtype)
    x = normal(rng(), 2, 5, 7, 12)
    ref = net.run({"x": x})
    for given in (DeviceArray.from_numpy(x, device), x, DeviceArray.from_numpy(x, device)):
        out = net.run({"x": given}, stay=["out"])
        assert isinstance(out["out"], DeviceArray) and isinstance(out["side"], np.ndarray)
        np.testing.assert_array_equal(out["out"].numpy(), ref["out"])
        np.testing.assert_array_equal(out["side"], ref["side"])
    # From run to run without coming back.
    again = net.run({"x": net.run({"x": x}, stay=["out", "side"])["out"]})["out"]
    np.testing.assert_array_equal(again, net.run({"x": ref["out"]})["out"])


def test_inputs_are_read_where_they_are(device: str) -> None:
    """Every run reads the array's memory anew, replayed or not; 16 bits are as good as float32."""
    net = network(device)
    tensor = on_device(torch.zeros(1, 3, 3, 8), device)
    array = DeviceArray.share(tensor, device)
    for value in (1.0, 2.0, 3.0, 4.0):
        tensor.fill_(value)
        assert (net.run({"x": array})["out"] == 3 * value).all()
    for halves in (tensor.bfloat16(), tensor.half(), CudaArray(tensor.half())):
        assert (net.run({"x": DeviceArray.share(halves, device)})["out"] == 12.0).all()
    # What lies at an odd address for vectors.
    odd = on_device(torch.arange(73.0), device)[1:].reshape(1, 3, 3, 8)
    out = net.run({"x": DeviceArray.share(odd, device)})["out"]
    np.testing.assert_array_equal(out, 3 * np.arange(1, 73, dtype=np.float32).reshape(1, 3, 3, 8))


def test_another_library_s_arrays_are_inputs(device: str) -> None:
    net = network(device)
    tensor = on_device(torch.arange(8.0).reshape(1, 1, 8), device)
    ref: Array = 3 * np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    for given in (tensor, CudaArray(tensor)):
        np.testing.assert_array_equal(net.run({"x": given})["out"], ref)


def test_ids_and_wrong_types(device: str) -> None:
    b = Builder()
    b.output("out", b.input("ids", "i32").apply("embedding", b.weights.table.tensor(5, 4)))
    table = normal(rng(), 5, 4)
    net = _core.Network(b.graph, {"table": _core.Tensor.from_array(table)}, device=device)
    ids = DeviceArray.from_numpy(np.array([[4, 0, 3]]), device)
    np.testing.assert_array_equal(net.run({"ids": ids})["out"], table[[4, 0, 3]][None])
    floats = DeviceArray.from_numpy(np.zeros((1, 3)), device)
    with pytest.raises(InvalidArgumentError, match="input 'ids' must be i32 on a device, got f32"):
        net.run({"ids": floats})
    with pytest.raises(
        InvalidArgumentError, match="input 'x' must be f32, bf16 or f16 on a device"
    ):
        network(device).run({"x": ids})
    with pytest.raises(InvalidArgumentError, match="no output 'oat'"):
        network(device).run({"x": np.zeros((1, 2))}, stay=["oat"])
    with pytest.raises(InvalidArgumentError, match="this network is on the CPU"):
        network("cpu").run({"x": np.zeros((1, 2))}, stay=["out"])
    # On the CPU they are arrays like any other.
    x = DeviceArray.from_numpy(np.ones((1, 2)), device)
    np.testing.assert_array_equal(network("cpu").run({"x": x})["out"], [[3, 3]])
    assert sdcore.DeviceArray is DeviceArray
