"""Models whose parts lie in files of their own, on the command line: the same picture as from the
whole, and errors that name the flag that supplies what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import tiny_models
import tiny_transformers
from command_line import REFUSED
from sdcore import cli, convert
from tiny_models import PLAIN

SMALL = ("--steps", 2, "-s", 3, "--dtype", "f32", "--quiet")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return tiny_models.save_folder(PLAIN, tmp_path_factory.mktemp("sd1") / "model")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    tiny_transformers.sd3_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def pixart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixart")
    tiny_transformers.pixart_pipeline(folder, sizes=False)
    return folder


@pytest.fixture
def draw(tmp_path):
    def run(*words):
        out = tmp_path / "x.png"
        code = cli.main(list(map(str, ["txt2img", "a cat", *SMALL, "-f", "-o", out, *words])))
        assert code == 0
        return np.asarray(Image.open(out))

    return run


def fails(capsys, *words):
    assert cli.main(list(map(str, ["txt2img", "a cat", "-o", "never.png", *words]))) in REFUSED
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    return line


def test_a_unet_alone_with_the_rest_of_another_model(sd1, draw, tmp_path):
    size = ("-W", 16, "-H", 16)
    want = draw("-m", sd1, *size)
    unet = convert(sd1, tmp_path / "unet.gguf", for_comfyui=True)
    assert np.array_equal(draw("-m", sd1, "--diffusion-model", unet, *size), want)
    parts = ("--vae", sd1 / "vae", "--clip_l", sd1 / "text_encoder")
    assert np.array_equal(draw("-m", sd1, "--diffusion-model", unet, *parts, *size), want)


def test_sd3_in_parts(sd3, draw):
    size = ("-W", 16, "-H", 24)
    want = draw("-m", sd3, *size)
    transformer = ("--diffusion-model", sd3 / "transformer", "-m", sd3, *size)
    assert np.array_equal(draw(*transformer), want)
    t5 = ("--t5xxl", sd3 / "text_encoder_3", "--t5xxl-tokenizer", sd3 / "tokenizer_3")
    assert np.array_equal(draw(*transformer, *t5, "--vae", sd3 / "vae"), want)
    clips = ("--clip-l", sd3 / "text_encoder", "--clip-g", sd3 / "text_encoder_2")
    assert np.array_equal(draw("-m", sd3, *clips, *size), want)


def test_pixarts_only_text_encoder_is_t5(pixart, draw):
    size = ("-W", 16, "-H", 24)
    want = draw("-m", pixart, *size)
    t5 = ("--t5xxl", pixart / "text_encoder", "--t5xxl-tokenizer", pixart / "tokenizer")
    alone = ("--diffusion-model", pixart / "transformer", "--vae", pixart / "vae", *t5, *size)
    # Of a lone transformer nothing says which VAE's scale it was trained on; its own folder does.
    assert np.array_equal(draw("-m", pixart, *t5, *size), want)
    assert draw(*alone).shape == want.shape


def test_the_flag_that_supplies_a_missing_part_is_named(sd1, sd3, pixart, capsys):
    line = fails(capsys, "--diffusion-model", sd1 / "unet")
    assert "has no text_encoder, only unet: give one as --clip_l" in line
    line = fails(capsys, "--diffusion-model", sd1 / "unet", "--clip_l", sd1 / "text_encoder")
    assert "has no vae, only unet: give one as --vae" in line
    line = fails(capsys, "--diffusion-model", pixart / "transformer")
    assert "has no text_encoder, only transformer: give one as --t5xxl" in line
    bare = ("--diffusion-model", pixart / "transformer", "--vae", pixart / "vae")
    line = fails(capsys, *bare, "--t5xxl", pixart / "text_encoder")
    assert "give --t5xxl-tokenizer, a folder with tokenizer.json" in line
    line = fails(capsys, "--diffusion-model", sd3 / "transformer", "--vae", sd3 / "vae")
    assert "give --clip_l (CLIP-L), --clip_g (CLIP-G) or --t5xxl (T5)" in line
    assert "pass this as --vae" in fails(capsys, "-m", sd1 / "vae")
    assert "pass this as --clip_l" in fails(capsys, "-m", sd1 / "text_encoder")
    line = fails(capsys, "-m", pixart / "text_encoder")
    assert "pass this as --t5xxl (PixArt) or --t5xxl (Stable" in line


def test_flags_that_a_family_does_not_take(sd1, pixart, capsys):
    line = fails(capsys, "-m", sd1, "--clip_g", sd1 / "text_encoder")
    assert "holds Stable Diffusion 1.x, which takes no --clip_g" in line
    line = fails(capsys, "-m", sd1, "--t5xxl", sd1 / "text_encoder")
    assert "holds Stable Diffusion 1.x, which takes no --t5xxl" in line
    line = fails(capsys, "-m", sd1, "--vae", sd1 / "text_encoder")
    assert "has no vae, only text_encoder: it is no vae" in line
    assert "no such file" in fails(capsys, "--diffusion-model", "none", "-m", sd1)
