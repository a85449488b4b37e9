"""PNG files and the settings in them."""

import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdcore.errors import CheckpointError, FileError
from sdcore.image_io import Infotext, read_png_parameters, save_picture

SETTINGS = {
    "Steps": 20,
    "Sampler": "DDIM",
    "CFG scale": "7.5",
    "Seed": 42,
    "Size": "512x512",
    "Model": "v1-5",
    "RNG": "CPU",
    "Version": "sdcore 0.1.0",
}
LAST = (
    "Steps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 512x512, Model: v1-5, RNG: CPU, "
    "Version: sdcore 0.1.0"
)
NASTY = [
    "a, b: c",
    'he said "no": yes, \\"maybe\\"',
    "two\nlines",
    "Steps: 20, Sampler: x, CFG scale: 7",  # looks like settings, but is not the last line
    "<lora:name:0.8>, (weighted:1.2), [a|b]",
    "emoji 🟥 and 日本語, naïve café",
    "tab\tinside",
    "ends with a comma,",
    "",
]


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def strings(settings):
    return {key: str(value) for key, value in settings.items()}


def test_infotext_is_what_a1111_writes():
    assert str(Infotext("a cat", "dog, bird", SETTINGS)) == (
        f"a cat\nNegative prompt: dog, bird\n{LAST}"
    )
    assert str(Infotext("a cat", "", SETTINGS)) == f"a cat\n{LAST}"
    assert str(Infotext("", "", SETTINGS)) == LAST


def test_values_are_quoted_only_where_they_must_be():
    text = str(Infotext("p", "", {"A": None, "Bc": 'x, "y"', "Cd": "é: 1", "Tiling": "Tiling"}))
    assert text == 'p\nBc: "x, \\"y\\"", Cd: "é: 1", Tiling'


@pytest.mark.parametrize("prompt", NASTY)
@pytest.mark.parametrize("negative", NASTY)
def test_round_trip(prompt, negative):
    parsed = Infotext.parse(str(Infotext(prompt, negative, SETTINGS)))
    assert parsed == Infotext(prompt, negative, strings(SETTINGS))


line = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t"))
prompts = st.lists(line, max_size=4).map(lambda lines: "\n".join(lines).strip())


@given(
    prompts.filter(lambda text: "Negative prompt:" not in text),
    prompts,
    st.dictionaries(
        st.from_regex(r"[A-Z][a-z]{1,9}( [a-z]{1,9})?", fullmatch=True),
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
        .map(str.strip)
        # The grammar writes these bare, where nothing can tell them from quoted ones.
        .filter(lambda value: value and not value.startswith('"')),
        min_size=3,
    ),
)
def test_round_trip_of_anything(prompt, negative, settings):
    settings = {key: value for key, value in settings.items() if key != value}
    settings |= strings(SETTINGS)
    parsed = Infotext.parse(str(Infotext(prompt, negative, settings)))
    assert parsed == Infotext(prompt, negative, settings)


def test_a_prompt_alone_has_no_settings():
    assert Infotext.parse("a cat, Steps: 3") == Infotext("a cat, Steps: 3")
    assert Infotext.parse("a\nNegative prompt: b\nc") == Infotext("a", "b\nc")


def test_settings_as_a1111_itself_wrote_them():
    text = (
        "masterpiece, (best quality:1.4)\nNegative prompt: lowres\n"
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 965400086, "
        'Size: 512x768, Model hash: cc6cb27103, Lora hashes: "a: 1f1b, b: 2c2d", Version: v1.9.4'
    )
    parsed = Infotext.parse(text)
    assert parsed.settings["Schedule type"] == "Karras"
    assert parsed.settings["Lora hashes"] == "a: 1f1b, b: 2c2d"
    assert parsed.settings["Version"] == "v1.9.4"
    assert str(parsed) == text


@pytest.mark.parametrize(
    ("line", "pairs"),
    [
        ("Ab: 1,Cd:2 ,  Ef: , Gh", {"Ab": "1", "Cd": "2 ", "Ef": ""}),
        ('Ab: "x, y" z, C: 1, -D e/f-g: "", Hi: "j"', {"Ab": '"x', "D e/f-g": "", "Hi": "j"}),
        ('a.bc: 12:30, Té st: "\\"", _x: "', {"bc": "12:30", "Té st": '"', "_x": '"'}),
        ("Ab: 1, Cd: 2, Ab: 3", {"Ab": "3", "Cd": "2"}),
    ],
)
def test_pairs_are_those_of_the_web_uis_expression(line, pairs):
    assert Infotext.parse(line).settings == pairs


@pytest.mark.parametrize(
    "line", ["a" * 300_000, "\t" * 300_000, 'aa: "\\' * 60_000, "a:" * 150_000]
)
def test_a_line_of_no_settings_takes_no_time(line):
    start = time.perf_counter()
    Infotext.parse("a" + line)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(("text", "chunk"), [("naïve é", b"tEXt"), ("日本 🟥", b"iTXt")])
def test_png_keeps_pixels_and_settings(tmp_path, image, text, chunk):
    path = tmp_path / "picture.png"
    save_picture(image, path, text)
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))
    assert read_png_parameters(path) == text
    assert chunk + b"parameters\0" in path.read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_settings_that_no_jpeg_holds(tmp_path, image, caplog):
    for name, kept in (("long.jpg", None), ("long.webp", "a" * 40_000)):
        save_picture(image, tmp_path / name, "a" * 40_000)
        assert read_png_parameters(tmp_path / name) == kept
    assert caplog.messages == ["[image] left out the settings, which are too long for a JPEG file"]


def test_a_damaged_picture_is_said_to_be_one(tmp_path, image):
    path = tmp_path / "picture.png"
    save_picture(image, path, "text")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises((CheckpointError, FileError), match=r"picture\.png"):
        read_png_parameters(path)


def test_png_without_settings(tmp_path, image):
    save_picture(image, tmp_path / "picture.png")
    assert read_png_parameters(tmp_path / "picture.png") is None


def test_a_file_is_replaced_only_when_asked(tmp_path, image):
    path = tmp_path / "picture.png"
    path.write_text("mine")
    with pytest.raises(FileError, match=r"'.*picture\.png' exists already"):
        save_picture(image, path)
    assert path.read_text() == "mine"
    link = tmp_path / "link.png"
    link.symlink_to(path)
    save_picture(image, link, overwrite=True)
    assert link.is_symlink()
    assert Image.open(path).size == image.size


def test_a_failure_leaves_nothing_behind(tmp_path, image, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left on device"):
        save_picture(image, tmp_path / "picture.png", overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_picture_is_said_to_be_none(tmp_path):
    path = tmp_path / "picture.png"
    with pytest.raises(FileError, match="cannot read"):
        read_png_parameters(path)
    path.write_text("text")
    with pytest.raises(CheckpointError, match="is not a picture"):
        read_png_parameters(path)
