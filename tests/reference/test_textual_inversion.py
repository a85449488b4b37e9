"""Textual inversion against diffusers with the same vectors, from every kind of file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

import sdcore
import tiny_models
import tiny_xl
from adapters import test_lora as lora_files
from reference.common import NETWORK_F32, error
from sdcore.cli import main
from sdcore.pipelines.request import Prompt
from sdcore.prompts.chunks import chunks
from sdcore.prompts.words import Vector, Word

WIDTH = tiny_models.PLAIN.context
PROMPT = "a cat of <thing>, the dog"


def vectors(count: int, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(count + width)
    return 0.05 * torch.randn((count, width), generator=generator)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    tiny_xl.xl(folder / "tokenizers").save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def pipe(model: Path) -> Any:
    return sdcore.DiffusionPipeline.open(model, dtype="f32")


@pytest.fixture(scope="module")
def expected(model: Path) -> Callable[[torch.Tensor], np.ndarray]:
    """What diffusers encodes with these vectors as <thing>."""
    import diffusers

    def encode(values: torch.Tensor) -> np.ndarray:
        theirs = diffusers.StableDiffusionPipeline.from_pretrained(model)
        theirs.load_textual_inversion({"<thing>": values})
        with torch.no_grad():
            states, _ = theirs.encode_prompt(PROMPT, "cpu", 1, False)
        return states.numpy()

    return encode


def a1111(values: torch.Tensor, parameters: type = dict) -> dict[str, Any]:
    return {
        "string_to_token": {"*": 265},
        "string_to_param": parameters({"*": torch.nn.Parameter(values)}),
        "name": "<thing>",
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "x",
    }


def picture(path: Path, values: torch.Tensor) -> None:
    content = {"string_to_param": {"*": {"TORCHTENSOR": values.tolist()}}, "name": "<thing>"}
    text = PngImagePlugin.PngInfo()
    text.add_text("sd-ti-embedding", base64.b64encode(json.dumps(content).encode()).decode())
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)


FILES: dict[str, Callable[[Path, torch.Tensor], Any]] = {
    "a1111.pt": lambda path, v: torch.save(a1111(v), path),
    "parameters.pt": lambda path, v: torch.save(a1111(v, torch.nn.ParameterDict), path),
    "diffusers.bin": lambda path, v: torch.save({"<thing>": v}, path),
    "one.bin": lambda path, v: torch.save({"<thing>": v[0]}, path),
    "old.bin": lambda path, v: torch.save(
        {"<thing>": v.half()}, path, _use_new_zipfile_serialization=False
    ),
    "named.safetensors": lambda path, v: save_file({"<thing>": v}, path),
    "emb_params.safetensors": lambda path, v: save_file({"emb_params": v}, path),
    "picture.png": picture,
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_encoded_as_diffusers_does(
    pipe: Any, expected: Callable[[torch.Tensor], np.ndarray], tmp_path: Path, name: str
) -> None:
    values = vectors(1 if name == "one.bin" else 3)
    FILES[name](tmp_path / name, values)
    plain = pipe.encode([PROMPT])
    token = "<thing>" if "emb_params" in name else None
    pipe.load_textual_inversion(tmp_path.parent, token, subfolder=tmp_path.name, weight_name=name)
    ref = expected(values.half().float() if name == "old.bin" else values)
    assert error(pipe.encode([PROMPT]), ref) <= NETWORK_F32
    assert error(plain, ref) > 0.01
    pipe.unload_textual_inversion()
    assert np.array_equal(pipe.encode([PROMPT]), plain)


def test_a_folder_of_diffusers(pipe: Any, tmp_path: Path) -> None:
    save_file({"<thing>": vectors(2)}, tmp_path / "learned_embeds.safetensors")
    pipe.load_textual_inversion(tmp_path, token="other")
    assert np.array_equal(pipe.encode(["<thing>"]), pipe.encode(["< thing >"]))
    assert error(pipe.encode(["other"]), pipe.encode(["another"])) > 0.01


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_both_text_encoders_of_sdxl_take_their_vectors(
    xl: Path, tmp_path: Path, suffix: str
) -> None:
    import diffusers

    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(xl)
    both = {"clip_l": vectors(2, 64), "clip_g": vectors(2, 128)}
    for part, number in (("clip_l", ""), ("clip_g", "_2")):
        theirs.load_textual_inversion(
            {"<thing>": both[part]},
            tokenizer=getattr(theirs, f"tokenizer{number}"),
            text_encoder=getattr(theirs, f"text_encoder{number}"),
        )
    with torch.no_grad():
        states, _, pooled, _ = theirs.encode_prompt(
            PROMPT, device="cpu", do_classifier_free_guidance=False
        )
    (save_file if suffix == "safetensors" else torch.save)(both, tmp_path / f"<thing>.{suffix}")
    pipe = sdcore.DiffusionPipeline.open(xl, dtype="f32")
    pipe.load_textual_inversion(tmp_path / f"<thing>.{suffix}")
    found = pipe.encode([Prompt((PROMPT,))])
    for out, ref in zip(found, (states, pooled), strict=True):
        assert error(out, ref.numpy()) <= NETWORK_F32


def test_rows_of_the_table_are_the_words_that_have_them(pipe: Any, tmp_path: Path) -> None:
    """Bit for bit, whether ids are looked up inside the network or before it."""
    (cat,) = pipe.tokenizer.encode("cat")
    table = pipe.text_encoder.network.tensors["text_model.embeddings.token_embedding.weight"]
    torch.save({"mine": torch.from_numpy(table.to_float()[cat])}, tmp_path / "x.bin")
    pipe.load_textual_inversion(tmp_path / "x.bin")
    for skip in (0, 1):
        out = pipe.encode(["a (mine:1.2) dog", "a dog"], skip)
        assert np.array_equal(out, pipe.encode(["a (cat:1.2) dog", "a dog"], skip))


def rows(pipe: Any, prompt: str, **words: int) -> list[list[str]]:
    """What chunks hold: ids as text, and vectors by the names of their words."""
    made = {
        name.replace("_", "-"): Word(
            name, {WIDTH: tuple(Vector(np.zeros(WIDTH, np.float32)) for _ in range(count))}
        )
        for name, count in words.items()
    }
    names = {id(v): name for name, word in made.items() for v in word.vectors[WIDTH]}
    known = {name: (lambda word=word: word) for name, word in made.items()}
    return [
        [
            names[id(token)] if isinstance(token, Vector) else pipe.tokenizer.decode([token])
            for token in row.ids[1 : row.ids.index(pipe.tokenizer.eos_token_id)]
        ]
        for row in chunks(prompt, pipe.tokenizer, 77, known, WIDTH)
    ]


def test_where_a_word_is_in_a_prompt(pipe: Any) -> None:
    def found(prompt: str) -> list[str]:
        (row,) = rows(pipe, prompt, mine=1, mine_too=2)
        return [text for text in row if text.startswith("mine")]

    assert found("a mine cat") == ["mine"]
    assert found("(MINE:1.2), mine") == ["mine", "mine"]
    assert found("mine-too, Mine-Too mine") == ["mine-too"] * 4 + ["mine"]
    assert found("determine mined mine_ mine5") == []
    assert rows(pipe, "embedding:mine", mine=1) == [["mine"]]


def test_the_vectors_of_a_word_stay_together(pipe: Any) -> None:
    first, second = rows(pipe, "cat " * 74 + "mine dog", mine=2)
    assert (len(first), second) == (74, ["mine", "mine", "dog"])
    (full,) = rows(pipe, "cat " * 73 + "mine", mine=2)
    assert full[-3:] == ["cat", "mine", "mine"]


def test_a_folder_of_words(pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "inside").mkdir()
    torch.save(a1111(vectors(2)), tmp_path / "inside" / "Bad-Hands.pt")
    torch.save(a1111(vectors(2, 32)), tmp_path / "wide.pt")
    Image.new("RGB", (8, 8)).save(tmp_path / "bad-hands.png")  # what the word looks like
    plain = pipe.encode(["a bad-hands wide cat"])
    pipe.embedding_dir = tmp_path
    named = pipe.encode(["a bad-hands wide cat"])
    assert "[embedding] " in caplog.text and caplog.text.count("wide") >= 1
    assert "its vectors have 32 numbers, and Stable Diffusion 1.x takes 64" in caplog.text
    pipe.embedding_dir = None
    assert np.array_equal(pipe.encode(["a bad-hands wide cat"]), plain)
    pipe.load_textual_inversion(tmp_path / "inside" / "Bad-Hands.pt", token="bad-hands")
    assert np.array_equal(pipe.encode(["a bad-hands wide cat"]), named)
    assert not np.array_equal(named, plain)
    pipe.embedding_dir = tmp_path / "gone"
    with pytest.raises(sdcore.SDCoreError, match="no such folder"):
        pipe.encode(["a"])


def test_words_that_come_with_a_lora(pipe: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    lora_files.as_kohya(tmp_path)
    state = load_file(tmp_path / "kohya.safetensors")
    state["bundle_emb.mine.string_to_param.*"] = vectors(2)
    save_file(state, tmp_path / "with.safetensors")
    save_file({"mine": vectors(2)}, tmp_path / "alone.safetensors")
    pipe.load_lora_weights(tmp_path / "kohya.safetensors")
    pipe.load_textual_inversion(tmp_path / "alone.safetensors")
    ref = pipe.encode(["a mine cat"])
    pipe.unload_textual_inversion("mine")
    assert not np.array_equal(pipe.encode(["a mine cat"]), ref)
    pipe.load_lora_weights(tmp_path / "with.safetensors")
    assert np.array_equal(pipe.encode(["a mine cat"]), ref)
    pipe.set_adapters("kohya")
    assert not np.array_equal(pipe.encode(["a mine cat"]), ref)


def test_what_is_no_word_of_this_model_is_said(pipe: Any, xl: Path, tmp_path: Path) -> None:
    def saved(name: str, state: dict[str, torch.Tensor]) -> Path:
        torch.save(state, tmp_path / name)
        return tmp_path / name

    before = pipe.encode([PROMPT])
    torch.save(a1111(vectors(1)), tmp_path / "taken.pt")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for path, message in {
        saved("sdxl.pt", {"clip_l": vectors(1, 768), "clip_g": vectors(1, 1280)}): (
            "have 768 and 1280 numbers, as for Stable Diffusion XL, and Stable Diffusion 1.x takes"
        ),
        saved("sd2.pt", {"x": vectors(1, 1024)}): "1024 numbers, as for Stable Diffusion 2.x, and",
        saved("long.pt", {"x": vectors(76)}): r"must have 1 to 75 vectors, got \[76, 64\]",
        saved("cube.pt", {"x": torch.ones(2, 2, WIDTH)}): r"1 to 75 vectors, got \[2, 2, 64\]",
        saved("nan.pt", {"x": torch.full((WIDTH,), torch.nan)}): "vectors that are not numbers",
        xl / "unet": "not a textual inversion|has none of learned_embeds",
        tmp_path / "plain.png": "has no textual inversion in it",
        tmp_path / "text.png": "cannot read",
        tmp_path / "none.pt": "none.pt",
    }.items():
        with pytest.raises(sdcore.SDCoreError, match=message):
            pipe.load_textual_inversion(path)
    two = saved("two.bin", {"a": vectors(1), "b": vectors(1)})
    with pytest.raises(sdcore.InvalidArgumentError, match="has 2 words, a, b: one token"):
        pipe.load_textual_inversion(two, token="c")
    pipe.load_textual_inversion(tmp_path / "taken.pt")
    with pytest.raises(sdcore.InvalidArgumentError, match="there is a word '<thing>' already"):
        pipe.load_textual_inversion(tmp_path / "taken.pt")
    with pytest.raises(sdcore.InvalidArgumentError, match="no word 'x'; loaded are: <thing>"):
        pipe.unload_textual_inversion(["x"])
    pipe.unload_textual_inversion("<thing>")
    assert np.array_equal(pipe.encode([PROMPT]), before)


def test_words_on_the_command_line(model: Path, tmp_path: Path) -> None:
    torch.save(a1111(vectors(2)), tmp_path / "mine.pt")

    def pixels(*words: str) -> list[int]:
        path = tmp_path / "x.png"
        size = ("-W", "16", "-H", "16", "--steps", "1", "-s", "5", "--quiet", "-f")
        assert main(["txt2img", "-m", str(model), "a mine", "-o", str(path), *size, *words]) == 0
        return np.asarray(Image.open(path)).tolist()

    assert pixels("--embd-dir", str(tmp_path)) != pixels()
