"""Other runtimes on the same checkpoint, each set up as its documentation says is fastest.

A peer opens what it needs when a side of it is asked for: `side(part, dtype, inputs)` is a function
that runs the part ("unet", "decode", "encode", "clip") once and gives its result as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

STEP = 500

# What holds oneDNN, ATen and MKL, which do PyTorch's and OpenVINO's work, to a level.
LIMITS: Mapping[str, Mapping[str, str]] = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OV_CPU_DISABLE": "avx512vnni,avx512bf16,avx512,amx",
    },
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}

Side = Callable[[], np.ndarray]
TORCH_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class PyTorch:
    """diffusers and transformers, channels-last, without gradients."""

    name = "PyTorch"
    dtypes = ("f32", "bf16")

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        self.path = path
        self.version = torch.__version__
        torch.set_num_threads(threads)
        self.modules = cache(self._module)

    def _module(self, part: str, dtype: str) -> Any:
        import torch

        kind = getattr(torch, TORCH_TYPES[dtype])
        module = self._clip() if part == "clip" else self._network(part)
        module = module.eval().requires_grad_(False)
        return module.to(kind).to(memory_format=torch.channels_last)

    def _network(self, part: str) -> Any:
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel

        folder = "unet" if part == "unet" else "vae"
        with torch.device("meta"):
            network = (
                UNet2DConditionModel(cross_attention_dim=768)
                if part == "unet"
                else AutoencoderKL(
                    block_out_channels=(128, 256, 512, 512),
                    layers_per_block=2,
                    down_block_types=("DownEncoderBlock2D",) * 4,
                    up_block_types=("UpDecoderBlock2D",) * 4,
                )
            )
        configs = self.path.parent / "configs"  # from_single_file would fetch them from a hub
        network.save_config(configs / folder)
        return type(network).from_single_file(
            str(self.path), config=str(configs), subfolder=folder, local_files_only=True
        )

    def _clip(self) -> Any:
        from safetensors.torch import load_file
        from transformers import CLIPTextConfig, CLIPTextModel

        prefix = "cond_stage_model.transformer."
        state = {
            name.removeprefix(prefix): tensor.float()
            for name, tensor in load_file(str(self.path)).items()
            if name.startswith(prefix)
        }
        config = CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12
        )
        module = CLIPTextModel(config)
        own = module.state_dict()
        named = {n if n in own else n.removeprefix("text_model."): t for n, t in state.items()}
        missing, _ = module.load_state_dict(named, strict=False)
        assert not missing, missing
        return module

    def function(self, part: str, dtype: str) -> Callable[..., Any]:
        """What runs the part on tensors."""
        module = self.modules("vae" if part in ("decode", "encode") else part, dtype)
        if part == "unet":
            return lambda x, context: module(x, STEP, context).sample
        if part == "clip":
            return lambda ids: module(ids).last_hidden_state
        if part == "decode":
            return lambda z: module.decode(z).sample
        return lambda x: module.encode(x).latent_dist.mean

    def traceable(self, part: str, inputs: tuple[np.ndarray, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The part as a module with one result, in float32, and its inputs, for other runtimes."""
        import torch

        call = self.function(part, "f32")

        class Part(torch.nn.Module):
            def forward(self, *given: Any) -> Any:
                return call(*given)

        return Part().eval(), tuple(torch.from_numpy(array) for array in inputs)

    def side(self, part: str, dtype: str, inputs: tuple[np.ndarray, ...]) -> Side:
        import torch

        kind = getattr(torch, TORCH_TYPES[dtype])
        call = self.function(part, dtype)

        def convert(array: np.ndarray) -> Any:
            tensor = torch.from_numpy(array)
            if not tensor.is_floating_point():
                return tensor
            tensor = tensor.to(kind)
            return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        def run() -> np.ndarray:
            with torch.no_grad():
                return call(*(convert(array) for array in inputs)).float().numpy()

        return run


class OpenVINO:
    """The PyTorch module converted with static shapes, compiled for latency."""

    name = "OpenVINO"
    dtypes = ("f32", "bf16")

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        self.path = path
        self.threads = threads
        self.version = openvino.__version__.partition("-")[0]

    @cached_property
    def _core(self) -> Any:
        import openvino

        return openvino.Core()

    def _model(self, part: str, inputs: tuple[np.ndarray, ...]) -> Path:
        """The converted part, made once for a batch size and kept."""
        import openvino
        import torch

        batch = len(inputs[0])
        kept = self.path.parent / f"openvino-{self.version}-{part}-{batch}.xml"
        if not kept.is_file():
            module, example = PyTorch(self.path, self.threads).traceable(part, inputs)
            with torch.no_grad():
                traced = torch.jit.trace(module, example, check_trace=False)
                model = openvino.convert_model(traced, example_input=example)
            shapes = [openvino.PartialShape(list(array.shape)) for array in inputs]
            model.reshape(dict(zip(model.inputs, shapes, strict=True)))
            openvino.save_model(model, kept, compress_to_fp16=False)
        return kept

    def side(self, part: str, dtype: str, inputs: tuple[np.ndarray, ...]) -> Side:
        call = self.call(part, dtype, inputs)
        return lambda: call(*inputs)

    def call(
        self, part: str, dtype: str, inputs: tuple[np.ndarray, ...]
    ) -> Callable[..., np.ndarray]:
        """The compiled part, for any inputs of these shapes."""
        options = {
            "INFERENCE_PRECISION_HINT": dtype,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        compiled = self._core.compile_model(self._model(part, inputs), "CPU", options)
        request = compiled.create_infer_request()
        return lambda *given: np.array(request.infer(list(given))[0], dtype=np.float32)


class OnnxRuntime:
    """The PyTorch module exported to ONNX, with all of the runtime's graph optimizations.

    Its CPU kernels know no bfloat16.
    """

    name = "ONNX Runtime"
    dtypes = ("f32",)

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self.path = path
        self.threads = threads
        self.version = onnxruntime.__version__

    def _model(self, part: str, inputs: tuple[np.ndarray, ...]) -> Path:
        """The exported part, made once for a batch size and kept; its weights lie beside it."""
        import torch

        kept = self.path.parent / f"onnx-{part}-{len(inputs[0])}" / "model.onnx"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            module, example = PyTorch(self.path, self.threads).traceable(part, inputs)
            names = [f"input{i}" for i in range(len(inputs))]
            fresh = kept.with_suffix(".new")
            with torch.no_grad():
                torch.onnx.export(
                    module, example, str(fresh), input_names=names, dynamo=False, opset_version=17
                )
            fresh.rename(kept)
        return kept

    def side(self, part: str, dtype: str, inputs: tuple[np.ndarray, ...]) -> Side:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(self._model(part, inputs)), options, providers=["CPUExecutionProvider"]
        )
        given = {f"input{i}": array for i, array in enumerate(inputs)}
        return lambda: session.run(None, given)[0]


PEERS: Mapping[str, Callable[[Path, int], Any]] = {
    "torch": PyTorch,
    "openvino": OpenVINO,
    "onnxruntime": OnnxRuntime,
}
