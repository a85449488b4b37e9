"""Flags of what only some families take, and SDXL's refiner, on the command line: the pictures that
Python draws with the same words, and again from the settings inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdcore
import tiny_models
import tiny_transformers
import tiny_xl
from command_line import REFUSED
from sdcore.cli import main
from sdcore.image_io import Infotext, read_png_parameters
from sdcore.pipelines import stages

PROMPT = "the red circle of a cat"
SMALL: dict[str, Any] = {"width": 24, "height": 32, "num_inference_steps": 4}
FLAGS = ("-W", 24, "-H", 32, "--steps", 4, "-s", 5, "--dtype", "f32", "--quiet")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd1, sd2, xl, refiner, sd3 and pixart"""
    root = tmp_path_factory.mktemp("models")
    for name in ("xl", "refiner", "sd2"):
        getattr(tiny_xl, name)(root / f"{name}-vocabularies").save_pretrained(root / name)
    tiny_models.save_folder(tiny_models.PLAIN, root / "sd1")
    tiny_transformers.sd3_pipeline(root / "sd3")
    tiny_transformers.pixart_pipeline(root / "pixart", False)
    return root


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def draw(model: Path, *words: Any, command: str = "txt2img", again: bool = True) -> np.ndarray:
    """The picture, which comes out byte for byte the same from the settings inside it."""
    said = (command, "-m", model, *words, *FLAGS)
    assert main([*map(str, said), PROMPT, "-f", "-o", "x.png"]) == 0
    if again:
        files = [words[words.index(flag) + 1] for flag in ("--refiner",) if flag in words]
        named = [word for path in files for word in ("--refiner", path)]
        left = [word for word in words if word == "--no-t5xxl"]  # a part, as -m is
        said = (command, "-m", model, *named, *left, "--from-png", "x.png", "--quiet")
        assert main([*map(str, said), "-o", "again.png"]) == 0
        assert Path("again.png").read_bytes() == Path("x.png").read_bytes()
        Path("again.png").unlink()
    return np.asarray(Image.open("x.png"))


def python(model: Path, options: dict[str, Any] | None = None, **arguments: Any) -> np.ndarray:
    pipe = sdcore.DiffusionPipeline.open(model, dtype="f32", **(options or {}))
    return np.asarray(pipe(PROMPT, **SMALL, seed=5, **arguments).images[0])


def fails(capsys: pytest.CaptureFixture[str], model: Path, *words: Any) -> str:
    command = "img2img" if "-i" in words else "txt2img"
    asked = [command, "-m", *map(str, [model, *words, *FLAGS, PROMPT, "-o", "never.png"])]
    assert main(asked) in REFUSED
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    return line


@pytest.mark.parametrize(
    ("model", "words", "arguments"),
    [
        (
            "xl",
            ("--prompt-2", "a dog, thin ring", "--negative-prompt-2", "red", "-n", "blurry"),
            {
                "prompt_2": "a dog, thin ring",
                "negative_prompt": "blurry",
                "negative_prompt_2": "red",
            },
        ),
        (
            "xl",
            ("--original-size", "300x512", "--crop-top-left", "16,8", "--target-size", "96x64"),
            {
                "original_size": (512, 300),
                "crops_coords_top_left": (16, 8),
                "target_size": (64, 96),
            },
        ),
        (
            "sd3",
            ("--skip-layers", "[1]", "--slg-scale", 3.5, "--skip-layer-start", 0.2,
             "--skip-layer-end", 0.9, "--prompt-3", "a lighthouse", "--max-sequence-length", 24),
            {
                "skip_guidance_layers": [1],
                "skip_layer_guidance_scale": 3.5,
                "skip_layer_guidance_start": 0.2,
                "skip_layer_guidance_stop": 0.9,
                "prompt_3": "a lighthouse",
                "max_sequence_length": 24,
            },
        ),
        (
            "pixart",
            ("--no-clean-caption", "--no-resolution-binning", "--max-sequence-length", 40),
            {
                "clean_caption": False,
                "use_resolution_binning": False,
                "max_sequence_length": 40,
            },
        ),
    ],
    ids=["xl-prompts", "xl-sizes", "sd3", "pixart"],
)  # fmt: skip
def test_flags_say_what_arguments_say(
    models: Path, model: str, words: tuple[Any, ...], arguments: dict[str, Any]
) -> None:
    drawn = draw(models / model, *words)
    assert np.array_equal(drawn, python(models / model, **arguments))
    assert not np.array_equal(drawn, draw(models / model, again=False)) or model == "pixart"


@pytest.mark.parametrize("sampler", ["euler", "euler_a"])
def test_the_refiner_draws_the_last_steps(models: Path, sampler: str) -> None:
    xl, second = models / "xl", models / "refiner"
    words = ("--sampler", sampler, "--aesthetic-score", 8, "--prompt-2", "a dog")
    drawn = draw(xl, *words, "--refiner", second, "--refiner-switch", 0.5)

    def opened(path: Path) -> Any:
        pipe = sdcore.DiffusionPipeline.open(path, dtype="f32")
        kind = {"euler": "EulerDiscrete", "euler_a": "EulerAncestralDiscrete"}[sampler]
        scheduler = getattr(sdcore, f"{kind}Scheduler")
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        return pipe

    first = opened(xl)(
        PROMPT, **SMALL, seed=5, prompt_2="a dog", denoising_end=0.5, output_type="latent"
    )
    image = opened(second)(
        PROMPT,
        num_inference_steps=4,
        seed=5 + 2**32,
        aesthetic_score=8.0,
        denoising_start=0.5,
        image=first.images,
    ).images[0]
    assert np.array_equal(drawn, np.asarray(image))
    assert not np.array_equal(drawn, draw(xl, *words[:2], again=False))
    text = Infotext.parse(read_png_parameters(Path("x.png")) or "")
    assert "Refiner" not in text.settings


def test_a_batch_is_drawn_by_one_model_and_then_by_the_other(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the two are never in memory together."""
    released: list[str] = []
    pipeline, drawn = sdcore.pipelines.DiffusionPipeline, []
    release, denoise = pipeline.release, stages.denoise
    monkeypatch.setattr(
        pipeline, "release", lambda pipe: (released.append(len(drawn)), release(pipe))
    )
    monkeypatch.setattr(
        stages, "denoise", lambda pipe, *more: (drawn.append(pipe.family), denoise(pipe, *more))[1]
    )
    words = ("-m", models / "xl", "--refiner", models / "refiner", *FLAGS, PROMPT)
    assert main(["txt2img", *map(str, words), "-b", "2", "-o", "x-%03d.png"]) == 0
    assert drawn == ["sdxl"] * 2 + ["sdxl-refiner"] * 2
    assert released[-1] == 2
    alone = draw(models / "xl", "--refiner", models / "refiner")
    assert np.array_equal(np.asarray(Image.open("x-001.png")), alone)
    text = Infotext.parse(read_png_parameters(Path("x-002.png")) or "")
    expected = {"Seed": "6", "Refiner": "refiner", "Refiner switch at": "0.8", "Steps": "4"}
    assert expected.items() <= text.settings.items()


def test_a_picture_is_redrawn_with_a_refiner(models: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    start = ("-i", "photo.png", "--strength", 0.9)
    refined = draw(models / "xl", *start, "--refiner", models / "refiner",
                   "--refiner-switch", 0.6, command="img2img", again=False)  # fmt: skip
    plain = draw(models / "xl", *start, command="img2img", again=False)
    assert refined.shape == plain.shape and not np.array_equal(refined, plain)


def test_t5_may_be_left_out(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = draw(models / "sd3", "--no-t5xxl")
    assert np.array_equal(drawn, python(models / "sd3", {"text_encoder_3": False}))
    assert "cannot do without its text_encoder" in fails(capsys, models / "pixart", "--no-t5xxl")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (("--prediction", "eps"), {"prediction_type": "epsilon"}),
        (("--prediction", "x0", "--sampler", "euler"), {"prediction_type": "sample"}),
        (
            ("--zero-snr",),
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
        (("--schedule", "trailing"), {"timestep_spacing": "trailing"}),
    ],
)
def test_what_a_model_predicts_may_be_said(
    models: Path, words: tuple[str, ...], fields: dict[str, Any]
) -> None:
    pipe = sdcore.DiffusionPipeline.open(models / "sd2", dtype="f32")
    kind = sdcore.EulerDiscreteScheduler if "euler" in words else type(pipe.scheduler)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **fields)
    expected = np.asarray(pipe(PROMPT, **SMALL, seed=5).images[0])
    assert np.array_equal(draw(models / "sd2", *words), expected)
    assert not np.array_equal(draw(models / "sd2", again=False), expected)


@pytest.mark.parametrize("sampler", [(), ("--sampler", "dpm++2m")])
def test_the_levels_of_a_flow_may_be_shifted(models: Path, sampler: tuple[str, ...]) -> None:
    pipe = sdcore.DiffusionPipeline.open(models / "sd3", dtype="f32")
    fields = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
    pipe.scheduler = (
        sdcore.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **fields)
        if sampler
        else type(pipe.scheduler).from_config(pipe.scheduler.config, shift=5.0)
    )
    expected = np.asarray(pipe(PROMPT, **SMALL, seed=5).images[0])
    assert np.array_equal(draw(models / "sd3", *sampler, "--flow-shift", 5), expected)
    assert not np.array_equal(draw(models / "sd3", *sampler, again=False), expected)


def test_configs_of_a_folder_count(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Playground from a file that has lost what tells it from SDXL."""
    playground = models / "playground"
    if not playground.exists():
        tiny_xl.playground(models / "playground-vocabularies").save_pretrained(playground)
    pipe = tiny_xl.StableDiffusionXLPipeline.from_pretrained(playground)
    tiny_xl.save_original(pipe, Path("model.safetensors"))
    drawn = draw(Path("model.safetensors"), "--config", playground, again=False)
    assert np.array_equal(drawn, python(playground))
    line = fails(capsys, Path("model.safetensors"), "--config", "nowhere")
    assert "no such folder: 'nowhere', which --config names" in line


def test_what_flags_cannot_say(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sd1, xl, second = (models / name for name in ("sd1", "xl", "refiner"))
    line = fails(capsys, sd1, "--prompt-2", "x")
    assert line == "error: [txt2img] --prompt-2 is not for Stable Diffusion 1.x"
    assert "--aesthetic-score is not for Stable Diffusion XL" in fails(
        capsys, xl, "--aesthetic-score", 5
    )
    line = fails(capsys, xl, "--refiner", second, "--skip-layers", 7)
    assert "--skip-layers is not for Stable Diffusion XL or Stable Diffusion XL refiner" in line
    assert "--original-size must be WIDTHxHEIGHT, got '512'" in fails(
        capsys, xl, "--original-size", 512
    )
    assert "--skip-layers must be LAYERS, got 'x'" in fails(
        capsys, models / "sd3", "--skip-layers", "x"
    )
    assert "a refiner is for SDXL, and this is Stable Diffusion 1.x" in fails(
        capsys, xl, "--refiner", sd1
    )
    assert "a refiner is for SDXL, and this is Stable Diffusion 1.x" in fails(
        capsys, sd1, "--refiner", second
    )
    assert "no such file or folder: 'nowhere'" in fails(capsys, xl, "--refiner", "nowhere")
    assert "--refiner-switch must lie between 0 and 1, got 1.5" in fails(
        capsys, xl, "--refiner", second, "--refiner-switch", 1.5
    )
    Image.new("RGB", (24, 32)).save("photo.png")
    mask = ("-i", "photo.png", "--mask", "photo.png")
    assert "--refiner does not go with --mask" in fails(capsys, xl, *mask, "--refiner", second)
    assert "has no prediction_type: --prediction and --zero-snr are for" in fails(
        capsys, models / "sd3", "--prediction", "v"
    )
    assert "--flow-shift is for models of flow matching" in fails(capsys, xl, "--flow-shift", 3)
    draw(xl, "--refiner", second)
    main(["txt2img", "-m", str(xl), "--from-png", "x.png", "-o", "y.png"])
    assert "drawn with the refiner 'refiner': name its file with --refiner" in (
        capsys.readouterr().err
    )
