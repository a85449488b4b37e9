"""libsdcore as a C program sees it: sdcore.h in ctypes, line for line."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

import numpy as np

OK, INVALID_ARGUMENT, CHECKPOINT, UNSUPPORTED_MODEL, IO, OUT_OF_MEMORY, CANCELLED = range(7)
DEFAULT = -1
StepCallback = ctypes.CFUNCTYPE(c_int, c_int32, c_int32, c_void_p)
StopCallback = ctypes.CFUNCTYPE(c_int, c_void_p)


class ModelOptions(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("dtype", c_char_p),
        ("threads", c_int32),
        ("device", c_char_p),
    )


class GenerateParams(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("prompt", c_char_p),
        ("negative_prompt", c_char_p),
        ("width", c_int32),
        ("height", c_int32),
        ("steps", c_int32),
        ("guidance_scale", c_float),
        ("seed", c_int64),
        ("count", c_int32),
        ("on_step", StepCallback),
        ("user", c_void_p),
        ("image", POINTER(c_uint8)),
        ("image_width", c_int32),
        ("image_height", c_int32),
        ("mask", POINTER(c_uint8)),
        ("mask_width", c_int32),
        ("mask_height", c_int32),
        ("strength", c_double),
        ("should_stop", StopCallback),
    )


class ModelInfo(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("width", c_int32),
        ("height", c_int32),
        ("steps", c_int32),
        ("guidance_scale", c_float),
        ("size_multiple", c_int32),
        ("largest_side", c_int32),
    )


class Image(Structure):
    _fields_ = (
        ("width", c_int32),
        ("height", c_int32),
        ("pixels", POINTER(c_uint8)),
        ("seed", c_uint64),
    )


class Tensor(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_int),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("data", c_void_p),
    )


class Failed(Exception):
    """A status that is not SDC_OK, with the text of sdc_last_error()."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Library:
    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name in ("images", "tensors", "model_steps", "model_networks"):
            getattr(self.c, f"sdc_{name}_count").restype = c_size_t
        for name in ("last_error", "version", "cpu_features", "status_name"):
            getattr(self.c, f"sdc_{name}").restype = c_char_p

    def check(self, status: int) -> None:
        if status != OK:
            raise Failed(status, self.c.sdc_last_error().decode())

    def params(self, prompt: str | None = "a cat", **fields: Any) -> GenerateParams:
        params = GenerateParams()
        self.c.sdc_generate_params_init(byref(params), c_size_t(ctypes.sizeof(params)))
        assert params.struct_size == ctypes.sizeof(params)
        params.prompt = None if prompt is None else prompt.encode()
        for name, value in fields.items():
            if isinstance(value, np.ndarray):  # bytes of a picture or a mask
                setattr(params, f"{name}_height", value.shape[0])
                setattr(params, f"{name}_width", value.shape[1])
                value = np.ascontiguousarray(value).ctypes.data_as(POINTER(c_uint8))
            setattr(params, name, value.encode() if isinstance(value, str) else value)
        return params


class Model:
    def __init__(
        self,
        library: Library,
        path: Path,
        dtype: str | None = None,
        threads: int = 0,
        device: str | None = None,
    ):
        self.library, self.c = library, library.c
        options = ModelOptions()
        self.c.sdc_model_options_init(byref(options), c_size_t(ctypes.sizeof(options)))
        assert options.struct_size == ctypes.sizeof(options)
        options.dtype = dtype and dtype.encode()
        options.threads = threads
        options.device = device and device.encode()
        self.handle = c_void_p()
        library.check(self.c.sdc_model_open(str(path).encode(), byref(options), byref(self.handle)))

    def __del__(self) -> None:
        self.c.sdc_model_free(self.handle)

    def info(self) -> ModelInfo:
        info, size = ModelInfo(), ctypes.sizeof(ModelInfo)
        self.library.check(self.c.sdc_model_info_get(self.handle, byref(info), c_size_t(size)))
        assert info.struct_size == size
        return info

    def steps(self) -> list[int]:
        return [self.step_at(i) for i in range(self.c.sdc_model_steps_count(self.handle))]

    def step_at(self, index: int) -> int:
        steps = c_int32()
        self.library.check(self.c.sdc_model_steps_get(self.handle, c_size_t(index), byref(steps)))
        return steps.value

    def networks(self) -> list[str]:
        names = [c_char_p() for _ in range(self.c.sdc_model_networks_count(self.handle))]
        for i, name in enumerate(names):
            call = self.c.sdc_model_networks_get(self.handle, c_size_t(i), byref(name))
            self.library.check(call)
        return [name.value.decode() for name in names]

    def generate(
        self, params: GenerateParams, on_step: Callable[[int, int], int] | None = None
    ) -> tuple[list[np.ndarray], list[int]]:
        """Pictures [height, width, 3] and their seeds."""
        callback = StepCallback(lambda done, total, _: on_step(done, total) if on_step else 0)
        if on_step:
            params.on_step = callback
        images = c_void_p()
        self.library.check(self.c.sdc_generate(self.handle, byref(params), byref(images)))
        try:
            return self._copied(images)
        finally:
            self.c.sdc_images_free(images)

    def _copied(self, images: c_void_p) -> tuple[list[np.ndarray], list[int]]:
        pictures, seeds = [], []
        for i in range(self.c.sdc_images_count(images)):
            image = Image()
            self.library.check(self.c.sdc_images_get(images, c_size_t(i), byref(image)))
            shape = (image.height, image.width, 3)
            pictures.append(np.ctypeslib.as_array(image.pixels, shape).copy())
            seeds.append(image.seed)
        return pictures, seeds

    def run(self, network: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = [_tensor(name, array) for name, array in inputs.items()]
        outputs = c_void_p()
        self.library.check(
            self.c.sdc_network_run(
                self.handle,
                network.encode(),
                (Tensor * len(given))(*given),
                c_size_t(len(given)),
                byref(outputs),
            )
        )
        results = {}
        for i in range(self.c.sdc_tensors_count(outputs)):
            tensor = Tensor()
            self.library.check(self.c.sdc_tensors_get(outputs, c_size_t(i), byref(tensor)))
            data = ctypes.cast(tensor.data, POINTER(c_float))
            shape = tuple(tensor.shape[: tensor.rank])
            results[tensor.name.decode()] = np.ctypeslib.as_array(data, shape).copy()
        self.c.sdc_tensors_free(outputs)
        return results


def _tensor(name: str, array: np.ndarray) -> Tensor:
    shape = (c_int64 * array.ndim)(*array.shape)
    kind = {np.dtype(np.float32): 0, np.dtype(np.int32): 1}[array.dtype]
    return Tensor(name.encode(), kind, array.ndim, shape, array.ctypes.data)
