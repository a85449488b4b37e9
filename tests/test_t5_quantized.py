"""T5 as llama.cpp and ComfyUI-GGUF quantize it: what its weights say, and no more memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel

import sdcore
import tiny_transformers as tiny
from reference.common import NETWORK_F32, error
from sdcore import checkpoint
from sdcore.models.base import RunOptions
from sdcore.models.t5 import T5EncoderModel as OurT5
from tiny_models import QuantType

TYPES = {"q4_K": QuantType.Q4_K, "q5_K": QuantType.Q5_K, "q8_0": QuantType.Q8_0}
WORDS = QuantType.Q6_K  # the vocabulary, as llama-quantize leaves it


@pytest.fixture(scope="module")
def module() -> T5EncoderModel:
    """Rows of whole blocks of 256, as T5-XXL's."""
    config = T5Config(
        vocab_size=2048,
        d_model=512,
        d_kv=64,
        d_ff=2048,
        num_layers=4,
        num_heads=8,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return tiny._random(T5EncoderModel(config), 4)


@pytest.fixture(scope="module", params=TYPES)
def written(
    request: pytest.FixtureRequest, module: T5EncoderModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, T5EncoderModel]:
    """A file, and a module of what its tensors hold."""
    path = tmp_path_factory.mktemp("t5") / f"{request.param}.gguf"
    state = {k: v for k, v in module.state_dict().items() if "embed_tokens" not in k}
    writer = gguf.GGUFWriter(path, "t5encoder")
    held = {}
    for name, value in tiny.llama_cpp_t5(state).items():
        array = value.numpy()
        if "norm" in name:
            kind = QuantType.F32
        elif "rel_b" in name:
            kind = QuantType.F16
        else:
            kind = WORDS if "token_embd" in name else TYPES[request.param]
        if kind in (QuantType.F32, QuantType.F16):
            data = array.astype({QuantType.F32: np.float32, QuantType.F16: np.float16}[kind])
            held[name] = data.astype(np.float32)
        else:
            blocks = np.frombuffer(sdcore.quantize(array, kind.name).data, np.uint8)
            data = blocks.reshape(array.shape[0], -1)
            held[name] = gguf.quants.dequantize(data, kind).reshape(array.shape)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    theirs = T5EncoderModel(module.config).eval()
    names = dict(zip(tiny.llama_cpp_t5(state), _names(state), strict=True))
    theirs.load_state_dict(
        {names[name]: torch.from_numpy(value.copy()) for name, value in held.items()}, strict=False
    )
    return path, theirs


def _names(state: tiny.State) -> list[str]:
    """transformers', in the order of llama.cpp's."""
    numbered = {name: torch.tensor([[float(i)]]) for i, name in enumerate(state)}
    order = [int(value.reshape(())) for value in tiny.llama_cpp_t5(numbered).values()]
    listed = list(state)
    return [listed[i] for i in order]


def test_it_runs_as_the_weights_that_its_blocks_hold(written: tuple[Path, T5EncoderModel]) -> None:
    path, theirs = written
    opened = checkpoint.open(path)
    assert opened.kind is not None and opened.kind.family == "t5"
    model = OurT5.from_component(opened.component("text_encoder"), RunOptions("f32"))
    types = {tensor.type for name, tensor in model.network.tensors.items() if "layer." in name}
    assert path.stem in types
    ids = np.random.default_rng(1).integers(0, 2048, (2, 77))
    mask = np.ones((2, 77), np.float32)
    mask[0, 30:] = 0
    with torch.no_grad():
        ref = theirs(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    assert error(model(ids, mask), ref) <= NETWORK_F32


_MEASURE = """
import sys, numpy as np
from pathlib import Path
from sdcore import checkpoint
from sdcore.models.base import RunOptions
from sdcore.models.t5 import T5EncoderModel
def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
before = held()
component = checkpoint.open(sys.argv[1]).component("text_encoder")
T5EncoderModel.from_component(component, RunOptions(sys.argv[2], threads=1))(np.ones((1, 16), int))
print(held() - before)
"""


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_its_weights_never_lie_in_memory_as_halves(
    written: tuple[Path, T5EncoderModel], dtype: str
) -> None:
    path, theirs = written
    run = [sys.executable, "-c", _MEASURE, str(path), dtype]
    grown = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    halves = 2 * sum(p.numel() for p in theirs.parameters())
    assert path.stat().st_size < 0.6 * halves
    # The file's own pages, and what one panel and 16 tokens take.
    assert grown < path.stat().st_size + 0.15 * halves
