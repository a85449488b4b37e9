"""Prompts: their syntax by hand-written cases, their states against NumPy and diffusers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler as TorchDDIM

import sdcore
import tiny_models
import tiny_xl
from reference.common import NETWORK_F32, SAMPLED_F32, error
from sdcore.cli import main
from sdcore.image_io import Infotext, read_png_parameters
from sdcore.pipelines.photomaker import _TRIGGER_AND_SPACE
from sdcore.prompts.attention import Piece, misread, parse
from sdcore.prompts.chunks import chunks
from sdcore.prompts.lora_tags import LoraTag, split_tags
from sdcore.tokenizer import CLIPTokenizer

ARGS: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 5.0,
    "height": 32,
    "width": 24,
}
PROMPT, NEGATIVE = "the red circle of a cat", "blurry dog"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return CLIPTokenizer.from_folder(tiny_models.write_tokenizer(folder))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    xl = tmp_path_factory.mktemp("xl")
    tiny_xl.xl(xl / "tokenizers").save_pretrained(xl / "model")
    plain = tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("plain"))
    return {"sd1": plain, "sdxl": xl / "model"}


def opened(folder: Path) -> Any:
    pipe = sdcore.DiffusionPipeline.open(folder, dtype="f32")
    pipe.scheduler = sdcore.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


@pytest.fixture(scope="module")
def pipe(models: dict[str, Path]) -> Any:
    return opened(models["sd1"])


def draw(pipe: Any, *prompts: Any, **arguments: Any) -> np.ndarray:
    return pipe(*prompts, **ARGS, seed=5, output_type="latent", **arguments).images


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat, 3: 4", [("a cat, 3: 4", 1.0)]),
        ("", [("", 1.0)]),
        ("a (cat) b", [("a ", 1.0), ("cat", 1.1), (" b", 1.0)]),
        ("((cat))", [("cat", 1.21)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("[[cat]]", [("cat", 1 / 1.21)]),
        ("(cat:1.3)", [("cat", 1.3)]),
        ("(cat : .5 )", [("cat ", 0.5)]),
        ("(cat:-1)", [("cat", -1.0)]),
        ("(a (b:2) c:3)", [("a ", 3.0), ("b", 6.0), (" c", 3.0)]),
        ("([a])", [("a", 1.0)]),
        ("(a:much)", [("a:much", 1.1)]),
        ("(a:12345)", [("a:12345", 1.1)]),
        ("a:1.3)", [("a:1.3)", 1.0)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("(a [b", [("a ", 1.1), ("b", 1.0)]),
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1.0)]),
        (r"(a\):1.2)", [("a)", 1.2)]),
        ("a\\b (c:d:+1.)", [("ab c:d", 1.0)]),
        ("(ä\u3000ö:\u30002.5\u3000)", [("ä\u3000ö", 2.5)]),
        ("(a\ud800:2)", [("a\ufffd\ufffd\ufffd", 2.0)]),
    ],
)
def test_the_pieces_of_a_prompt(prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = parse(prompt)
    assert [piece.text for piece in found] == [text for text, _ in pieces]
    assert [p.weight for p in found] == pytest.approx([w for _, w in pieces], abs=1e-12)
    assert {piece.section for piece in found} == {0}


@pytest.mark.parametrize(
    ("prompt", "warnings"),
    [
        ("(a:1.3) ((b)) [c] (d (e:2) f:.5), (g: h i), (at http://x), 1:2)", []),
        (r"\(a:b\) <lora:gone:0.5> :)", []),
        ("(cat:much) (dog:1.3)", ["(cat:much): 'much' is no weight"]),
        ("(cat:1,3) ((dog:1.2.3))", ["(cat:1,3): '1,3'", "(dog:1.2.3): '1.2.3'"]),
        ("(cat:) (dog:12345)", ["(cat:): ''", "(dog:12345): '12345'"]),
        ("[a:b:0,5] [f:g]", ["[a:b:0,5]: '0,5' is no step"]),
        ("a (red [cat", ["a ( is never closed, and weighs all that follows: (red [cat"]),
    ],
)
def test_what_may_have_been_meant_as_weights_is_said(
    pipe: Any, prompt: str, warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """And the picture is drawn all the same."""
    pipe.lora_dir = None
    expected = draw(pipe, prompt.replace("<lora:gone:0.5>", ""))
    caplog.clear()
    assert np.array_equal(draw(pipe, prompt), expected)
    said = [m for m in caplog.messages if m.startswith("[prompt]")]
    assert len(said) == len(warnings)
    assert all(one in line for one, line in zip(warnings, said, strict=True))
    caplog.clear()
    draw(pipe, "x", negative_prompt=prompt)
    assert len([m for m in caplog.messages if m.startswith("[prompt]")]) == len(warnings)


def test_tags_are_read_as_the_web_ui_reads_them(caplog: pytest.LogCaptureFixture) -> None:
    tags = "a <LORA:x:0.5>b<Lyco: y :0.3:te=1> <hypernet:z:1>c <lora:w:0,5>d <e:1>"
    assert split_tags(tags) == (
        "a b c d <e:1>",
        (LoraTag("x", 0.5, 0.5), LoraTag("y", 1.0, 1.0)),
    )
    assert [line.partition(": ")[::2] for line in caplog.messages] == [
        ("[prompt] left out <hypernet:z:1>", "hypernetworks are not supported"),
        ("[prompt] left out <lora:w:0,5>", "its weight is not a number"),
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        *("<lora:" * 20_000, "(:" * 20_000 + ")" * 20_000, "(:" + " " * 99_999 + "a b)"),
        *("[|" * 50_000, "[a:" * 40_000, "(a" * 40_000, " " * 50_000 + "a"),
    ],
    ids=lambda prompt: prompt[:4],
)
def test_what_never_ends_takes_no_time(prompt: str) -> None:
    start = time.perf_counter()
    misread(prompt)
    split_tags(prompt)
    parse(prompt)
    _TRIGGER_AND_SPACE.sub("", prompt)
    assert time.perf_counter() - start < 5


def test_brackets_in_more_than_a_hundred_weigh_nothing() -> None:
    assert parse("(" * 99 + "a" + ")" * 99)[0].weight == pytest.approx(1.1**99)
    assert parse("(" * 150 + "a" + ")" * 150)[0].weight == pytest.approx(1.1**100)
    assert parse("[" * 150 + "a (b:1.5)")[1].weight == pytest.approx(1.5 / 1.1**100)


def test_break_parts_a_prompt() -> None:
    assert parse("(a BREAK b:2) BREAK\nc BREAKS") == [
        Piece("a", 2.0, 0),
        Piece("b", 2.0, 1),
        Piece("", 1.0, 1),
        Piece("c BREAKS", 1.0, 2),
    ]


def ids(tokenizer: CLIPTokenizer, prompt: str) -> list[list[int]]:
    """What each chunk holds between begin and end, and that nothing else is there."""
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    found = []
    for row in chunks(prompt, tokenizer, 77):
        inside = list(row.ids[1 : row.ids.index(end)])
        assert row.ids == (begin, *inside, end, *[pad] * (75 - len(inside)))
        assert len(row.weights) == 77
        found.append(inside)
    return found


def test_a_prompt_in_chunks(tokenizer: CLIPTokenizer) -> None:
    (cat,), (dog,), (comma,) = (tokenizer.encode(text) for text in ("cat", "dog", ","))
    assert ids(tokenizer, "") == [[]]
    assert ids(tokenizer, "cat " * 75) == [[cat] * 75]
    assert ids(tokenizer, "cat " * 76) == [[cat] * 75, [cat]]
    assert ids(tokenizer, "cat " * 75 + ",") == [[cat] * 75, [comma]]
    assert ids(tokenizer, "cat BREAK dog") == [[cat], [dog]]
    assert ids(tokenizer, "BREAK cat BREAK") == [[], [cat]]
    assert ids(tokenizer, "cat BREAK BREAK") == [[cat], []]
    # A full chunk ends at its last comma, if that is one of its last twenty tokens.
    assert ids(tokenizer, "cat " * 60 + "," + "dog " * 20) == [[cat] * 60 + [comma], [dog] * 20]
    near, far = ("cat " * n + "," + "dog " * 40 for n in (55, 54))
    assert ids(tokenizer, near)[0] == [cat] * 55 + [comma]
    assert ids(tokenizer, far)[0] == [cat] * 54 + [comma] + [dog] * 20
    (row,) = chunks("cat (dog:1.5) cat", tokenizer, 77)
    assert row.weights == (1.0, 1.0, 1.5, *[1.0] * 74)


def test_weights_are_at_the_mean_of_the_states(pipe: Any) -> None:
    torch_clip = tiny_models.text_encoder(tiny_models.PLAIN)
    ids = torch.from_numpy(pipe.tokenizer(["the red cat of dog"])).long()
    with torch.no_grad():
        states = torch_clip(ids)[0].double().numpy()
    weights = np.ones((77, 1))
    weights[2], weights[3], weights[5] = 1.3, 1.21, 1 / 1.1
    scaled = states * weights
    ref = scaled * (states.mean() / scaled.mean())
    out = pipe.encode(["the (red:1.3) ((cat)) of [dog]"])
    assert error(out, ref) <= NETWORK_F32
    assert error(states, ref) > 10 * NETWORK_F32
    same = pipe.encode(["the (red:1.0) cat of dog"])
    assert np.array_equal(same, pipe.encode(["the red cat of dog"]))


def test_chunks_are_encoded_by_themselves(pipe: Any) -> None:
    def encoded(text: str) -> np.ndarray:
        return pipe.text_encoder(pipe.tokenizer([text]))

    out = pipe.encode(["a red cat BREAK the dog"])
    ref = np.concatenate([encoded("a red cat"), encoded("the dog")], axis=1)
    assert np.array_equal(out, ref)
    long = pipe.encode(["cat " * 75 + "the dog"])
    assert np.array_equal(long, np.concatenate([encoded("cat " * 75), encoded("the dog")], 1))
    uneven = pipe.encode(["a red cat BREAK the dog", "the dog"])
    assert np.array_equal(uneven[0], ref[0])
    assert np.array_equal(uneven[1], encoded("the dog")[0])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_long_prompt_draws_as_its_states_do_in_diffusers(
    models: dict[str, Path], family: str
) -> None:
    mine, theirs = opened(models[family]), torch_pipe(models[family])
    prompt = "a (red:1.3) cat BREAK the dog"
    embeds = states(mine, [prompt], negative=False) | states(mine, [NEGATIVE], negative=True)
    ref = theirs(**as_torch(padded(embeds)), **ARGS, latents=noise(), output_type="latent")
    out = draw(mine, **padded(embeds))
    assert error(out, ref.images.numpy()) <= SAMPLED_F32
    # Prompt and negative prompt of different lengths go into batches of their own.
    both = draw(mine, [prompt, PROMPT], NEGATIVE)
    assert np.array_equal(both[:1], draw(mine, prompt, NEGATIVE))
    alone = mine(PROMPT, NEGATIVE, **ARGS, seed=6, output_type="latent").images
    assert np.array_equal(both[1:], alone)


def torch_pipe(folder: Path) -> Any:
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    # Where diffusers looks for the last norm, and transformers 5 no longer has it.
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    pipe.scheduler = TorchDDIM.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise() -> torch.Tensor:
    return torch.randn((1, 4, 16, 12), generator=torch.Generator("cpu").manual_seed(5))


def states(pipe: Any, texts: list[str], negative: bool) -> dict[str, np.ndarray]:
    side = "negative_" * negative
    if pipe.family == "sd1":
        return {f"{side}prompt_embeds": pipe.encode(texts)}
    from sdcore.pipelines.request import Prompt

    made = pipe.encode([Prompt.read((text,), negative) for text in texts])
    return {f"{side}prompt_embeds": made[0], f"{side}pooled_prompt_embeds": made[1]}


def padded(embeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """diffusers takes both sides at one length only."""
    tokens = max(array.shape[1] for name, array in embeds.items() if "pooled" not in name)
    return {
        name: array if "pooled" in name else np.tile(array, (1, tokens // array.shape[1], 1))
        for name, array in embeds.items()
    }


def as_torch(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_clip_skip_is_diffusers(models: dict[str, Path], family: str) -> None:
    theirs, mine = torch_pipe(models[family]), opened(models[family])
    prompts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    ref, plain = (
        theirs(**prompts, **ARGS, latents=noise(), clip_skip=skip, output_type="latent")
        for skip in (1, None)
    )
    # diffusers skips in the prompt alone, and the web UI in the negative one as well.
    embeds = states(mine, [NEGATIVE], negative=True)
    out = draw(mine, PROMPT, **embeds, clip_skip=1)
    assert error(out, ref.images.numpy()) <= SAMPLED_F32
    assert error(out, plain.images.numpy()) > 10 * SAMPLED_F32
    assert error(draw(mine, PROMPT, NEGATIVE, clip_skip=1), out) > 1e-4


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_embeds_draw_what_their_prompts_draw(models: dict[str, Path], family: str) -> None:
    mine = opened(models[family])
    prompts = [PROMPT, "a dog"]
    embeds = states(mine, prompts, negative=False)
    negative = states(mine, [NEGATIVE], negative=True)
    both = draw(mine, prompts, NEGATIVE)
    assert np.array_equal(draw(mine, **embeds, **negative), both)
    assert np.array_equal(draw(mine, prompts, **negative), both)
    assert np.array_equal(draw(mine, negative_prompt=NEGATIVE, **embeds), both)


def test_what_cannot_be_a_prompt_is_said(models: dict[str, Path], pipe: Any) -> None:
    embeds = pipe.encode([PROMPT])
    for arguments, message in (
        ({}, "prompt must be a string or a list"),
        ({"prompt": "a", "prompt_embeds": embeds}, "prompt and prompt_embeds say the same"),
        ({"prompt_embeds": embeds[0]}, r"prompt_embeds must be \[n, tokens, channels\], got \[77"),
        (
            {"prompt": "a", "negative_prompt_embeds": np.tile(embeds, (3, 1, 1))},
            "1 prompts and 3 of negative_prompt_embeds",
        ),
        ({"prompt": "a", "clip_skip": 2}, "skip must be from 0 to 1"),
        ({"prompt": "a", "clip_skip": -1}, "clip_skip"),
    ):
        with pytest.raises(sdcore.InvalidArgumentError, match=message):
            draw(pipe, **arguments)
    xl = opened(models["sdxl"])
    given = states(xl, [PROMPT], negative=False)
    with pytest.raises(sdcore.InvalidArgumentError, match=r"pooled_prompt_embeds must be .* None"):
        draw(xl, prompt_embeds=given["prompt_embeds"])


def test_the_web_uis_clip_skip_on_the_command_line(models: dict[str, Path], tmp_path: Path) -> None:
    def pixels(family: str, *words: str) -> list[int]:
        path = tmp_path / "x.png"
        size = ("-W", "24", "-H", "32", "--steps", "1", "-s", "5", "--quiet", "-f")
        model = ("-m", str(models[family]))
        assert main(["txt2img", *model, PROMPT, "-o", str(path), *size, *words]) == 0
        from PIL import Image

        settings = Infotext.parse(read_png_parameters(path)).settings
        assert settings.get("Clip skip") == (words[1] if words else None)
        return np.asarray(Image.open(path)).tolist()

    plain = pixels("sd1")
    assert pixels("sd1", "--clip-skip", "1") == plain != pixels("sd1", "--clip-skip", "2")
    plain = pixels("sdxl")
    assert pixels("sdxl", "--clip-skip", "2") == plain != pixels("sdxl", "--clip-skip", "3")
