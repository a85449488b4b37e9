"""Prompts that change while drawing: when, by the web UI's examples; and that pictures follow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdcore
import tiny_models
import tiny_transformers
import tiny_xl
from sdcore.pipelines.hooks import FamilyHooks
from sdcore.prompts.editing import Span, misread, timeline
from sdcore.schedulers import Scheduler

ARGS: dict[str, Any] = {
    "num_inference_steps": 6,
    "guidance_scale": 5.0,
    "height": 32,
    "width": 24,
    "output_type": "latent",
}


def until(prompt: str, steps: int, before: int | None = None) -> list[tuple[int, str]]:
    """What is said until which step, from 1, as the web UI writes it."""
    said = timeline(prompt, Span(steps, before))
    return list(zip([*list(said)[1:], steps], said.values(), strict=True))


# Those of get_learned_conditioning_prompt_schedules in the web UI's modules/prompt_parser.py.
@pytest.mark.parametrize(
    ("prompt", "schedule"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(i, "(b:1.1)" if i % 2 == 0 else "a") for i in range(1, 11)]),
        ("[fe|]male", [(i, "male" if i % 2 == 0 else "female") for i in range(1, 11)]),
        (
            "[fe|||]male",
            [(i, "female" if i % 4 == 1 else "male") for i in (1, 4, 5, 8, 9, 10)],
        ),
    ],
)
def test_the_web_uis_examples(prompt: str, schedule: list[tuple[int, str]]) -> None:
    assert until(prompt, 10) == schedule


def test_the_web_uis_long_example() -> None:
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )
    begin = "fantasy landscape with a"
    assert until(prompt, 100) == [
        (25, f"{begin} mountain and an oak in foreground shoddy"),
        (50, f"{begin} lake and an oak in foreground in background shoddy"),
        (60, f"{begin} lake and an oak in foreground in background masterful"),
        (75, f"{begin} lake and an oak in background masterful"),
        (100, f"{begin} lake and a christmas tree in background masterful"),
    ]


@pytest.mark.parametrize(
    ("prompt", "schedule"),
    [
        # Parts of a step count for nothing, and what is outside of the steps changes nothing.
        ("[a:b:0.29]", [(2, "a"), (10, "b")]),
        ("[a:b:0.09]", [(10, "b")]),
        ("[a:b:0]", [(10, "b")]),
        ("[a:b:-3]", [(10, "b")]),
        ("[a:b:10]", [(10, "a")]),
        ("[a:b:99]", [(10, "a")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:1]", [(1, "a"), (10, "b")]),
        ("[a:b:+3]", [(3, "a"), (10, "b")]),
        ("[a:b:3e-1]", [(3, "a"), (10, "b")]),
        ("[a:b:1e999]", [(10, "a")]),
        ("[a::3]", [(3, "a"), (10, "")]),
        ("[::3]", [(10, "")]),
        ("(cat:[1.2:1.4:\n5 ])", [(5, "(cat:1.2)"), (10, "(cat:1.4)")]),
        ("[[a|b]:c:3]", [(1, "a"), (2, "b"), (3, "a"), (10, "c")]),
        ("[[a:b:2]|c]", [(1, "a"), *((i, "c" if i % 2 == 0 else "b") for i in range(2, 11))]),
        ("[a:(b|c):5]", [(5, "a"), (10, "(b|c)")]),
        (r"[a\:\]:\[b:5]", [(5, r"a\:\]"), (10, r"\[b")]),
        (r"[a\|b|c]", [(i, "c" if i % 2 == 0 else r"a\|b") for i in range(1, 11)]),
        ("[x BREAK y:z:5]", [(5, "x BREAK y"), (10, "z")]),
        ("a | b: [c:d:5]) e\\", [(5, "a | b: c) e\\"), (10, "a | b: d) e\\")]),
    ],
)
def test_what_changes_when(prompt: str, schedule: list[tuple[int, str]]) -> None:
    assert until(prompt, 10) == schedule
    assert misread(prompt) == []


# Its examples for the second pass, whose steps follow on the first one's.
@pytest.mark.parametrize(
    ("prompt", "schedule"),
    [
        ("a [b:.5] c", [(10, "a b c")]),
        ("a [b:1.5] c", [(5, "a  c"), (10, "a b c")]),
        ("[a:b:20]", [(10, "b")]),
        ("[a:b:24]", [(4, "a"), (10, "b")]),
        ("[a:b:0.5] [c:d:1.25]", [(2, "b c"), (10, "b d")]),
        ("[a|b]", [(i, "b" if i % 2 == 0 else "a") for i in range(1, 11)]),
    ],
)
def test_a_second_pass_goes_on_counting(prompt: str, schedule: list[tuple[int, str]]) -> None:
    assert until(prompt, 10, before=20) == schedule


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("[a]", []),
        ("[a:b]", []),
        ("[3]", []),
        (r"\[a:b:3]", []),
        ("[a:b:3", []),
        ("[a) :3]", ["brackets in it cross"]),
        ("[(a:3]", ["brackets in it cross"]),
        ("a:) [b|c :3", []),
        ("[a:b:0,5]", ["'0,5' is no step"]),
        ("[a:50%]", ["'50%' is no step"]),
        ("[a:b:half]", ["'half' is no step"]),
        ("[a:b:c:3]", ["':' too many"]),
        ("[a:[b:c]:3]", ["':' too many"]),
        ("[a:(b:c:d):3]", ["':' too many"]),
        ("[a|b:c]", ["no ':' outside of brackets"]),
        ("[a|[b:c]]", ["':' too many"]),
    ],
)
def test_what_is_no_edit_stays_as_it_is(prompt: str, words: list[str]) -> None:
    assert until(prompt, 10) == [(10, prompt)]
    said = misread(prompt)
    assert len(said) == len(words)
    assert all(prompt in line and word in line for word, line in zip(words, said, strict=True))
    # What is beside it, or within it, changes all the same.
    assert until(f"{prompt} [x:y:2]", 10) == [(2, f"{prompt} x"), (10, f"{prompt} y")]
    assert until("[a:b:[x:y:2]:c:3]", 10) == [(2, "[a:b:x:c:3]"), (10, "[a:b:y:c:3]")]


@pytest.mark.parametrize(
    "prompt",
    [
        "[" * 100_000,
        "[:" * 10_000 + "]" * 10_000,
        "[" * 15_000 + "a" + ":3]" * 10_000,
        "[" * 10_000 + "a" + "|b]" * 10_000,
        "[a|]" * 10_000,
        "[a:" + "9" * 100_000 + "]",
        "[a:" + "9" * 100_000 + "x]",
        "(]" * 10_000,
    ],
    ids=lambda prompt: prompt[:4],
)
def test_what_never_ends_takes_no_time(prompt: str) -> None:
    start = time.perf_counter()
    timeline(prompt, Span(20))
    misread(prompt)
    assert time.perf_counter() - start < 5


# ---- pictures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_folder(tiny_models.PLAIN, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return sdcore.DiffusionPipeline.open(folder, dtype="f32")


def use(pipe: Any, scheduler: type[Scheduler]) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)


def by_hand(pipe: Any, positive: list[str], negative: list[str], seed: int) -> np.ndarray:
    """A picture of texts, one a step, by networks and a scheduler of the public face."""
    encoded = {text: pipe.encode_prompt([text])[0] for text in {*positive, *negative}}
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(len(positive))
    noise = torch.randn((1, 4, 16, 12), generator=torch.Generator().manual_seed(seed)).numpy()
    x = noise * np.float32(scheduler.init_noise_sigma)
    times = list(scheduler.timesteps)
    calls = len(times) > len(positive)  # two a step, but for the last one
    for i, t in enumerate(times):
        step = i // (1 + calls)
        given = scheduler.scale_model_input(x, t)
        away, to = (pipe.unet(given, t, encoded[texts[step]]) for texts in (negative, positive))
        x = scheduler.step(away + np.float32(5.0) * (to - away), t, x)
    return x


@pytest.mark.parametrize("scheduler", [sdcore.DDIMScheduler, sdcore.HeunDiscreteScheduler])
def test_a_picture_is_the_one_drawn_by_hand(pipe: Any, scheduler: type[Scheduler]) -> None:
    use(pipe, scheduler)
    prompts = {
        "a [red:(blue:1.3):0.5] cat": ["a red cat"] * 2 + ["a (blue:1.3) cat"] * 2,
        "the [cat|dog]": ["the cat", "the dog"] * 2,
    }
    negative = ["blurry", *["dog BREAK cat"] * 3]
    arguments = {**ARGS, "num_inference_steps": 4}
    arguments["negative_prompt"] = "[blurry:dog BREAK cat:1]"
    together = pipe(list(prompts), **arguments, seed=3).images
    for i, (prompt, texts) in enumerate(prompts.items()):
        alone = pipe(prompt, **arguments, seed=3 + i).images
        assert np.array_equal(alone[0], together[i])
        drawn = by_hand(pipe, texts, negative, 3 + i)
        assert np.linalg.norm(alone - drawn) <= 1e-5 * np.linalg.norm(drawn)
        constant = by_hand(pipe, texts[:1] * 4, negative, 3 + i)
        assert np.linalg.norm(alone - constant) > 1e-3 * np.linalg.norm(drawn)


Told = dict[str, np.ndarray]


@contextmanager
def told() -> Iterator[list[Told]]:
    """What the denoiser is told of the last row it is given, a call each."""
    calls: list[Told] = []
    run = FamilyHooks.ask

    def record(self: Any, x: Any, t: Any, told: Any, **more: Any) -> Any:
        calls.append({name: told[name][-1] for name in TEXTS if name in told})
        return run(self, x, t, told, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FamilyHooks, "ask", record)
        yield calls


TEXTS = ("encoder_hidden_states", "text_embeds", "pooled_projections", "encoder_attention_mask")


def said(pipe: Any, texts: dict[str, str], **arguments: Any) -> str:
    """Which of these texts, by a letter, the denoiser is told at each call of a run."""
    known = {}
    for letter, text in texts.items():
        with told() as calls:
            pipe(text, **{**ARGS, "num_inference_steps": 1})
        known[letter] = calls[0]
    with told() as calls:
        pipe(**{**ARGS, **arguments})

    def letter_of(call: Told) -> str:
        (found,) = (
            letter
            for letter, one in known.items()
            if all(np.array_equal(one[name], call[name]) for name in call)
        )
        return found

    return "".join(map(letter_of, calls))


AB = {"a": "cat", "b": "dog"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"prompt": "[cat:dog:0.5]"}, "aaabbb"),
        ({"prompt": "[cat|dog]"}, "ababab"),
        ({"prompt": "x", "negative_prompt": "[cat:dog:2]"}, "x" * 6),
        ({"prompt": "[cat:dog:2]", "guidance_scale": 1.0}, "aabbbb"),
        ({"prompt": "[cat:dog:2]", "guidance_end": 0.5, "clip_skip": 0}, "aabbbb"),
        # Of six steps, a picture to begin from leaves four.
        ({"prompt": "[cat:dog:0.5]", "strength": 0.67, "image": True}, "aabb"),
        ({"prompt": "[cat:dog:1]", "strength": 0.67, "image": True}, "abbb"),
        ({"prompt": "[cat|dog]", "strength": 0.67, "image": True}, "abab"),
        # The second pass makes three of its six, and counts on: 1.34 is its first.
        ({"prompt": "[cat:dog:0.5]", "hires_scale": 2, "hires_strength": 0.5}, "aaabbb" + "bbb"),
        ({"prompt": "[cat:dog:1.34]", "hires_scale": 2, "hires_strength": 0.5}, "aaaaaa" + "abb"),
        ({"prompt": "[cat:dog:8]", "hires_scale": 2, "hires_strength": 0.5}, "aaaaaa" + "aab"),
        ({"prompt": "[cat|dog]", "hires_scale": 2, "hires_strength": 0.5}, "ababab" + "aba"),
    ],
)
def test_which_steps_are_counted(pipe: Any, arguments: dict[str, Any], expected: str) -> None:
    use(pipe, sdcore.DDIMScheduler)
    if arguments.get("image"):
        arguments = {**arguments, "image": np.zeros((32, 24, 3), np.uint8)}
    assert said(pipe, {**AB, "x": "x"}, **arguments) == expected


def test_samplers_that_ask_twice_count_steps(pipe: Any) -> None:
    for scheduler, expected in (
        (sdcore.HeunDiscreteScheduler, "aaaaaa" + "bbbbb"),
        (sdcore.KDPM2AncestralDiscreteScheduler, "aaaaaa" + "bbbbb"),
        (sdcore.PNDMScheduler, "aaaa" + "bbb"),
    ):
        use(pipe, scheduler)
        assert said(pipe, AB, prompt="[cat:dog:3]") == expected


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("xl")
    tiny_xl.xl(folder / "tokenizers").save_pretrained(folder / "model")
    return sdcore.DiffusionPipeline.open(folder / "model", dtype="f32")


def test_two_encoders_and_pooled_states_follow(xl: Any) -> None:
    assert said(xl, AB, prompt="[cat:dog:4]") == "aaaabb"
    # A schedule shared with a refiner is counted as one, whatever part of it is drawn.
    assert said(xl, AB, prompt="[cat:dog:1]", denoising_end=0.5) == "ab"
    share = {"denoising_start": 0.5, "image": np.zeros((1, 4, 16, 12), np.float32)}
    assert said(xl, AB, prompt="[cat:dog:5]", **share) == "aaab"
    # prompt_2 changes by itself.
    with told() as calls:
        xl("[cat:dog:2]", prompt_2="[cat:dog:4]", **ARGS)
    width = xl.text_encoder.config.hidden_size
    first, second = (
        [call["encoder_hidden_states"][:, part].tobytes() for call in calls]
        for part in (slice(0, width), slice(width, None))
    )
    pooled = [call["text_embeds"].tobytes() for call in calls]
    assert [row == first[0] for row in first] == [True] * 2 + [False] * 4
    assert [row == second[0] for row in second] == [True] * 4 + [False] * 2
    assert [row == pooled[0] for row in pooled] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("family", ["sd3", "pixart"])
def test_transformers_follow(tmp_path: Path, family: str) -> None:
    if family == "sd3":
        theirs: Any = tiny_transformers.sd3_pipeline(tmp_path / "parts")
    else:
        theirs = tiny_transformers.pixart_pipeline(tmp_path / "parts", False)
    theirs.save_pretrained(tmp_path / "model")
    mine = sdcore.DiffusionPipeline.open(tmp_path / "model", dtype="f32")
    size = {"width": 32, "height": 32, "num_inference_steps": 4}
    assert said(mine, AB, prompt="[cat:dog:3]", **size) == "aaab"


def test_each_text_is_encoded_once(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(pipe, sdcore.DDIMScheduler)
    batches = []
    encode = type(pipe.text_encoder).encode

    def record(self: Any, ids: np.ndarray, **more: Any) -> Any:
        batches.append(len(ids))
        return encode(self, ids, **more)

    monkeypatch.setattr(type(pipe.text_encoder), "encode", record)
    pipe(["[cat|dog]", "dog", "[dog|cat|the]"], "x", **ARGS, hires_scale=2)
    assert batches == [4]  # cat, dog, the and x


def test_what_is_kept_between_steps_is_of_one_picture(pipe: Any) -> None:
    """Each image of a batch forgets it where its own prompt changes, as if it were alone."""
    use(pipe, sdcore.DDIMScheduler)
    prompts = ["the [cat:dog:0.5]", "a [red|cat|] circle", "dog"]
    for kept in ({"cache_interval": 3}, {"cache_threshold": 0.9}):
        arguments = {**ARGS, "num_inference_steps": 7, **kept}
        together = pipe(prompts, "blurry", **arguments, seed=1).images
        for i, prompt in enumerate(prompts):
            alone = pipe(prompt, "blurry", **arguments, seed=1 + i).images
            assert np.array_equal(alone[0], together[i])
    # Where a prompt changes at every step, nothing is kept.
    turns = ("a [red|cat|] circle", "blurry")
    spared = pipe(*turns, **arguments, seed=2).images
    arguments["cache_threshold"] = 0.0
    assert np.array_equal(spared, pipe(*turns, **arguments, seed=2).images)


def test_tags_may_stand_in_edits(pipe: Any) -> None:
    use(pipe, sdcore.DDIMScheduler)
    pipe.lora_dir = None
    plain = pipe("a [cat:dog:3]", **ARGS, seed=1).images
    assert np.array_equal(pipe("a [<lora:gone:1>cat:dog:3]", **ARGS, seed=1).images, plain)
