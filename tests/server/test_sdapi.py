"""What the web UI's API draws is what the pipeline draws, and what it cannot do is said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import sdcore
from sdcore.image_io import Infotext, parameters_of
from sdcore.pictures.upscale import enlarged_latents
from sdcore.pipelines.pictures import encoded_mean
from sdcore.server.drawing import Wanted, _scheduled
from sdcore.server.pictures import picture_from_text
from sdcore.webui import samplers
from server.serving import SMALL, opened, photo, pixels, read, sent

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"


@pytest.fixture(scope="module")
def pipe(folder: Path) -> sdcore.DiffusionPipeline:
    return opened(folder / "models" / "plain", folder)


def drawn(client: httpx.Client, path: str = TXT2IMG, **fields: Any) -> tuple[list[str], Any]:
    answer = client.post(path, json={"prompt": "a cat", **SMALL, **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["images"], json.loads(body["info"])


def called(pipe: sdcore.DiffusionPipeline, prompt: str = "a cat", **options: Any) -> np.ndarray:
    options = {"width": 16, "height": 24, "num_inference_steps": 3, "seed": 7, **options}
    return np.asarray(pipe(prompt, **options).images[0])


def refused(client: httpx.Client, path: str, *parts: str, status: int = 422, **fields: Any) -> None:
    answer = client.post(path, json={"prompt": "a cat", **SMALL, **fields})
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["detail"] == body["errors"]
    for part in parts:
        assert part in body["detail"]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"negative_prompt": "dog", "cfg_scale": 3.5}, {"guidance_scale": 3.5, "n": "dog"}),
        ({"subseed": 9, "subseed_strength": 0.3}, {"subseed": 9, "subseed_strength": 0.3}),
        ({"override_settings": {"randn_source": "NV"}}, {"rng": "cuda"}),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, {"clip_skip": 1}),
        ({"clip_skip": 2}, {"clip_skip": 1}),
        (
            {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5, "hr_upscaler": "None"},
            {"hires_scale": 1.5, "hires_strength": 0.5, "hires_steps": 6},
        ),
        (
            {"enable_hr": True, "hr_resize_x": 32, "hr_resize_y": 48, "hr_second_pass_steps": 2},
            {"hires_scale": 2.0, "hires_strength": 0.75, "hires_steps": 2},
        ),
        (
            {"enable_hr": True, "hr_upscaler": "Latent (nearest-exact)", "hr_scale": 2},
            {
                **{"hires_scale": 2.0, "hires_upscaler": "Latent (nearest-exact)"},
                **{"hires_strength": 0.75, "hires_steps": 4},
            },
        ),
        (
            {
                **{"enable_hr": True, "hr_resize_x": 32, "hr_resize_y": 32, "hr_prompt": "a dog"},
                **{"hr_negative_prompt": "red", "hr_cfg": 2, "hr_sampler_name": "Use same sampler"},
            },
            {
                **{"hires_width": 32, "hires_height": 32, "hires_prompt": "a dog"},
                **{"hires_negative_prompt": "red", "hires_guidance_scale": 2.0},
                **{"hires_strength": 0.75, "hires_steps": 4},
            },
        ),
        (
            {"enable_hr": True, "hr_resize_x": 24, "hr_sampler_name": "DPM++ 2M"},
            {
                **{"hires_width": 24, "hires_strength": 0.75, "hires_steps": 4},
                "hires_scheduler": sdcore.DPMSolverMultistepScheduler(
                    use_karras_sigmas=True,
                    beta_start=0.00085,
                    beta_end=0.012,
                    beta_schedule="scaled_linear",
                    steps_offset=1,
                    timestep_spacing="leading",
                ),
            },
        ),
    ],
)
def test_the_same_seed_gives_the_same_pixels(client, pipe, fields, options) -> None:
    options = dict(options)
    options["negative_prompt"] = options.pop("n", None)
    (image,), info = drawn(client, **fields)
    assert np.array_equal(pixels(image), called(pipe, **options))
    assert info["seed"] == 7
    assert info["comments"] == []


@pytest.mark.parametrize(
    ("name", "scheduler", "short", "schedule"),
    [
        ("Euler a", "Automatic", "euler_a", None),
        ("DPM++ 2M", "automatic", "dpm++2m", "karras"),
        ("DPM++ 2M Karras", None, "dpm++2m", "karras"),
        ("euler", "SGM Uniform", "euler", "sgm_uniform"),
        ("dpm++2m", "align_your_steps", "dpm++2m", "ays"),
        ("euler", "discrete", "euler", "normal"),
        ("DPM++ 2M SDE Heun Karras", None, "dpm++2m_sde_heun", "karras"),
        ("DPM++ 2M SDE", "Automatic", "dpm++2m_sde", "exponential"),
        ("DPM++ 2M Exponential", "Automatic", "dpm++2m", "exponential"),
        ("k_euler_a", "karras", "euler_a", "karras"),
        ("LCM", "automatic", "lcm", None),
        (None, None, None, None),
    ],
)
def test_samplers_and_schedules(client, pipe, name, scheduler, short, schedule) -> None:
    own = pipe.scheduler
    (image,), info = drawn(client, sampler_name=name, scheduler=scheduler)
    pipe.scheduler = samplers.make(own, short, schedule)
    try:
        assert np.array_equal(pixels(image), called(pipe))
        assert info["sampler_name"] == samplers.title(pipe.scheduler)
    finally:
        pipe.scheduler = own


def test_a_schedule_that_the_web_ui_takes_no_notice_of(client, pipe) -> None:
    plain, _ = drawn(client, sampler_name="DDIM")
    both = drawn(client, sampler_name="DDIM", sampler_index="Euler")
    assert both[0] == plain and both[1]["comments"] == []
    images, info = drawn(client, sampler_index="DDIM", scheduler="Karras")
    assert images == plain
    assert "DDIM has no Karras" in info["comments"][0]


def test_a_flow_has_levels_of_its_own() -> None:
    own = sdcore.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = SimpleNamespace(scheduler=own, family="sd3")
    with _scheduled(pipe, Wanted("x", sampler="DPM++ 2M", schedule="Automatic")) as schedule:
        assert schedule is None
        assert pipe.scheduler.config.flow_shift == 3
    assert pipe.scheduler is own


def test_an_eta_is_for_samplers_that_have_one(client, pipe) -> None:
    plain, _ = drawn(client, sampler_name="Euler a")
    for eta, comments in ((1.0, []), (0.5, ["[server] eta: Euler a has none"])):
        images, info = drawn(client, sampler_name="Euler a", eta=eta)  # as sdwebuiapi sends it
        assert images == plain and info["comments"] == comments
    assert drawn(client, sampler_name="DDIM", eta=1.0)[0] != drawn(client, sampler_name="DDIM")[0]


def test_a_picture_carries_its_settings(client) -> None:
    (image,), info = drawn(client, sampler_name="DPM++ 2M", override_settings={"a": 1})
    text = parameters_of(read(image))
    assert text == info["infotexts"][0]
    settings = Infotext.parse(text).settings
    assert settings["Sampler"] == "DPM++ 2M"
    assert settings["Schedule type"] == info["extra_generation_params"]["Schedule type"] == "Karras"
    assert (settings["Seed"], settings["Size"], settings["Model"]) == ("7", "16x24", "plain")
    assert info["comments"] == ["override_settings.a: there is no such option here"]
    answer = client.post("/sdapi/v1/png-info", json={"image": "data:image/png;base64," + image})
    assert answer.json()["info"] == text
    assert answer.json()["parameters"]["Prompt"] == "a cat"
    assert answer.json()["parameters"]["Seed"] == "7"


@pytest.mark.parametrize("name", ["jpg", "webp"])
def test_other_formats_carry_them_too(client, name) -> None:
    (image,), info = drawn(client, override_settings={"samples_format": name})
    assert read(image).format == {"jpg": "JPEG", "webp": "WEBP"}[name]
    assert parameters_of(read(image)) == info["infotexts"][0]


def test_batches_count_their_seeds_on(client, pipe) -> None:
    images, info = drawn(client, batch_size=2, n_iter=2, subseed=20, subseed_strength=0.1)
    assert info["all_seeds"] == [7, 8, 9, 10]
    seeds = [Infotext.parse(text).settings["Seed"] for text in info["infotexts"]]
    assert seeds == ["7", "8", "9", "10"]
    assert info["all_subseeds"] == [20, 21, 22, 23]
    last = called(pipe, seed=10, subseed=23, subseed_strength=0.1)
    assert np.array_equal(pixels(images[3]), last)
    images, _ = drawn(client, batch_size=2, n_iter=2)
    for i, image in enumerate(images):
        assert np.array_equal(pixels(image), called(pipe, seed=7 + i))
    random = [drawn(client, seed=-1, steps=1)[1]["seed"] for _ in range(2)]
    assert random[0] != random[1]


def test_loras_by_tags(client, pipe) -> None:
    (plain,), _ = drawn(client)
    (image,), info = drawn(client, prompt="a cat <lora:kohya:0.5>")
    assert np.array_equal(pixels(image), called(pipe, "a cat <lora:kohya:0.5>"))
    assert not np.array_equal(pixels(image), pixels(plain))
    assert "<lora:kohya:0.5>" in info["infotexts"][0]
    (image,), info = drawn(client, prompt="a cat <lora:../secret:1>")
    assert np.array_equal(pixels(image), pixels(plain))
    assert "no LoRA '../secret'" in info["comments"][0]


def test_prompts_that_change_and_are_joined(client, pipe) -> None:
    prompt = "a [cat:dog:1] AND a [red|blue] circle :0.5"
    (image,), info = drawn(client, prompt=prompt, negative_prompt="[x:y:2]")
    assert np.array_equal(pixels(image), called(pipe, prompt, negative_prompt="[x:y:2]"))
    assert not np.array_equal(pixels(image), pixels(drawn(client)[0][0]))
    assert info["comments"] == [] and prompt in info["infotexts"][0]
    comments = drawn(client, prompt="[a:b:c:2]", negative_prompt="x AND y")[1]["comments"]
    assert [("':' too many" in comments[0]), ("AND is a word" in comments[1])] == [True, True]


def test_words_of_a_users_own(client, pipe) -> None:
    (image,), _ = drawn(client, prompt="a mine cat")
    assert np.array_equal(pixels(image), called(pipe, "a mine cat"))
    without = copy.copy(pipe)
    without.embedding_dir = None
    assert not np.array_equal(pixels(image), called(without, "a mine cat"))


def test_half_of_a_pair_is_no_letter(client) -> None:
    body = b'{"prompt": "\\ud800 \xc3\xa9", "width": 16, "height": 16, "steps": 1}'
    answer = client.post(TXT2IMG, content=body, headers={"content-type": "application/json"})
    assert json.loads(answer.json()["info"])["infotexts"][0].startswith("? é")
    refused(client, TXT2IMG, "no model", status=404, override_settings={"sd_model_checkpoint": "ü"})


def test_without_pictures_and_with_what_is_ignored(client) -> None:
    images, info = drawn(client, send_images=False, save_images=True, styles=["x"], mystery=1)
    assert images == []
    assert len(info["infotexts"]) == 1
    assert [comment.partition(":")[0] for comment in info["comments"]] == [
        "save_images",
        "styles",
        "mystery",
    ]


def test_a_picture_from_a_picture(client, pipe) -> None:
    begin = photo()
    (image,), info = drawn(
        client, IMG2IMG, init_images=[sent(begin)], denoising_strength=0.6, steps=5
    )
    ref = called(pipe, image=begin, strength=0.6, num_inference_steps=5)
    assert np.array_equal(pixels(image), ref)
    assert info["denoising_strength"] == 0.6
    # A data URL, the web UI's strength, and the picture's own size.
    fields = {"init_images": [f"data:image/png;base64,{sent(begin)}"], "width": None}
    (image,), _ = drawn(client, IMG2IMG, **fields, height=None)
    assert np.array_equal(pixels(image), called(pipe, image=begin, strength=0.75))
    (image,), _ = drawn(client, IMG2IMG, init_images=[sent(photo(32, 24))], resize_mode=1)
    cut = photo(32, 24).crop((8, 0, 24, 24))
    assert np.array_equal(pixels(image), called(pipe, image=cut, strength=0.75))
    (image,), _ = drawn(client, IMG2IMG, init_images=[sent(photo(16, 12))], resize_mode=2)
    filled = np.pad(np.asarray(photo(16, 12)), ((6, 6), (0, 0), (0, 0)), mode="edge")
    assert np.array_equal(pixels(image), called(pipe, image=filled, strength=0.75))


def test_a_picture_of_16_bits_keeps_its_levels() -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    seen = picture_from_text(sent(Image.fromarray(grey * 257)), "mask")
    assert np.array_equal(np.asarray(seen), grey)


def test_a_mask_keeps_what_is_black(client, pipe) -> None:
    begin, mask = photo(), Image.new("L", (16, 24))
    mask.paste(255, (0, 0, 8, 24))
    fields = {"init_images": [sent(begin)], "mask": sent(mask), "mask_blur": 0}
    whole = {**fields, "inpaint_full_res": False, "inpainting_fill": 1}
    (image,), _ = drawn(client, IMG2IMG, **whole)
    ref = called(pipe, image=begin, mask_image=mask, strength=0.75)
    assert np.array_equal(pixels(image)[:, :8], ref[:, :8])
    assert np.array_equal(pixels(image)[:, 8:], np.asarray(begin)[:, 8:])
    (other,), _ = drawn(client, IMG2IMG, **whole, inpainting_mask_invert=1)
    assert np.array_equal(pixels(other)[:, :8], np.asarray(begin)[:, :8])
    # As the web UI does it unless told: what is masked alone, at the whole size, filled, blurred.
    (image,), _ = drawn(client, IMG2IMG, **(fields | {"mask_blur": 1}))
    assert pixels(image).shape == (24, 16, 3)
    assert not np.array_equal(pixels(image)[:, :6], np.asarray(begin)[:, :6])
    assert np.array_equal(pixels(image)[:, 13:], np.asarray(begin)[:, 13:])


def test_a_mask_of_another_size_or_none_at_all(client, pipe) -> None:
    begin, mask = photo(), Image.new("L", (16, 24))
    mask.paste(255, (0, 0, 8, 24))
    fields = {"init_images": [sent(begin)], "mask_blur": 0, "inpainting_fill": 1}
    for whole in (True, False):
        asked = {**fields, "inpaint_full_res": whole}
        large = sent(mask.resize((64, 96), Image.Resampling.NEAREST))
        images = [drawn(client, IMG2IMG, **asked, mask=one)[0][0] for one in (sent(mask), large)]
        left, right = (pixels(image)[:, 10:] for image in images)
        assert np.array_equal(left, right) and np.array_equal(left, np.asarray(begin)[:, 10:])
    # One that is blank: all is drawn over where the masked part alone should be, else nothing.
    black = {**fields, "mask": sent(Image.new("L", (16, 24)))}
    (image,), info = drawn(client, IMG2IMG, **black)
    assert np.array_equal(pixels(image), called(pipe, image=begin, strength=0.75))
    assert "mask: is blank" in info["comments"][0]
    (image,), info = drawn(client, IMG2IMG, **black, inpaint_full_res=False)
    assert np.array_equal(pixels(image), np.asarray(begin)) and info["comments"] == []
    (image,), _ = drawn(client, IMG2IMG, **{**fields, "mask": ""})
    assert np.array_equal(pixels(image), called(pipe, image=begin, strength=0.75))


def test_latents_may_be_resized_in_place_of_a_picture(client, pipe) -> None:
    begin = photo(32, 24)
    pixels_of = np.asarray(begin, np.float32).transpose(2, 0, 1)[None] / 255 * 2 - 1
    latents = encoded_mean(pipe.vae, pixels_of)
    f = pipe.vae.scale_factor
    larger = enlarged_latents(latents, (16 // f, 24 // f), "Latent")
    fields = {"init_images": [sent(begin)], "resize_mode": 3}
    (image,), info = drawn(client, IMG2IMG, **fields)
    assert np.array_equal(pixels(image), called(pipe, image=larger, strength=0.75))
    assert info["comments"] == []
    mask = {"mask": sent(Image.new("L", (32, 24), 255))}  # whose part is cut out and stretched
    same = [drawn(client, IMG2IMG, **fields | mask | {"resize_mode": m})[0] for m in (0, 3)]
    assert same[0] == same[1]


def test_what_a_masked_part_begins_as(client, pipe) -> None:
    begin, white = photo(), Image.new("L", (16, 24), 255)
    fields = {"init_images": [sent(begin)], "mask": sent(white), "inpaint_full_res": False}
    given = {"image": begin, "mask_image": white, "strength": 0.75}
    seen = []
    for number, content in ((1, "original"), (2, "noise"), (3, "nothing")):
        (image,), _ = drawn(client, IMG2IMG, **fields, mask_blur=0, inpainting_fill=number)
        if number == 1:  # the others' picture is filled first
            assert np.array_equal(pixels(image), called(pipe, **given, masked_content=content))
        seen.append(image)
    filled = drawn(client, IMG2IMG, **fields, mask_blur=0, inpainting_fill=0)[0][0]
    assert len({*seen, filled}) == 4
    whole = [
        drawn(client, IMG2IMG, **fields, inpainting_fill=number, denoising_strength=1)[0]
        for number in (0, 1, 2, 3)
    ]
    assert whole.count(whole[0]) == 4  # which begins as noise alone


def test_no_strength_makes_the_last_step(client, pipe) -> None:
    begin = photo()
    fields = {"init_images": [sent(begin)], "denoising_strength": 0}
    (image,), info = drawn(client, IMG2IMG, **fields)
    assert np.array_equal(pixels(image), called(pipe, image=begin, strength=0))
    assert info["denoising_strength"] == 0
    assert Infotext.parse(info["infotexts"][0]).settings["Denoising strength"] == "0"
    mask = {"mask": sent(Image.new("L", (16, 24), 255)), "inpainting_fill": 1}
    assert drawn(client, IMG2IMG, **fields, **mask)[1]["comments"] == []


@pytest.mark.parametrize(
    "name", ["unpadded", "url-safe", "of lines", "as jpeg", "as octets", "escaped", "in capitals"]
)
def test_base64_as_programs_write_it(name) -> None:
    image = Image.new("RGB", (5, 3), "red")
    image.putpixel((1, 1), (1, 2, 3))
    while True:  # one with padding and with both letters that the alphabets differ in
        plain = sent(image)
        if plain.endswith("=") and "+" in plain and "/" in plain:
            break
        image = image.resize((image.width + 1, 3))
        image.putpixel((2, 2), (image.width * 7 % 256, image.width * 5 % 256, 77))
    text = {
        "unpadded": plain.rstrip("="),
        "url-safe": plain.replace("+", "-").replace("/", "_").rstrip("="),
        "of lines": "\n" + "\r\n".join(plain[i : i + 76] for i in range(0, len(plain), 76)) + " \n",
        "as jpeg": f"data:image/jpg;base64, {plain}",
        "as octets": f"data:application/octet-stream;base64,{plain}",
        "escaped": "data:image/png;base64," + plain.replace("+", "%2B").replace("/", "%2F"),
        "in capitals": f" DATA:image/png;charset=utf-8;BASE64,{plain}",
    }[name]
    assert np.array_equal(np.asarray(picture_from_text(text, "mask")), np.asarray(image))


def test_echo_leaves_pictures_out(client) -> None:
    body = {"prompt": "x", **SMALL, "init_images": [sent(photo())], "include_init_images": False}
    parameters = client.post(IMG2IMG, json=body).json()["parameters"]
    assert parameters["init_images"] is None
    assert parameters["steps"] == 3
    body["include_init_images"] = True
    assert client.post(IMG2IMG, json=body).json()["parameters"] == body


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"sampler_name": "Restart"}, ("there is no sampler 'Restart'", ", euler_a, ", "unipc")),
        ({"scheduler": "Turbo"}, ("there is no schedule 'Turbo'",)),
        ({"sampler_name": "DDIM", "scheduler": "Turbo"}, ("no schedule 'Turbo' for DDIM",)),
        ({"sampler_name": "LCM", "scheduler": "Karras"}, ("no schedule 'Karras' for LCM",)),
        ({"width": 17}, ("width must be a multiple of 2", "got 17")),
        ({"width": 100_000}, ("at most 8192",)),
        ({"width": "wide"}, ("width must be a whole number",)),
        ({"height": 8.5}, ("height must be a whole number",)),
        ({"steps": 0}, ("steps must be at least 1",)),
        ({"steps": 10**9}, ("from 1 to 1000",)),
        ({"seed": -2}, ("seed must be at least -1",)),
        ({"seed": 2**64}, ("64 bits",)),
        ({"cfg_scale": "x"}, ("cfg_scale must be a number",)),
        ({"prompt": 5}, ("prompt must be a text",)),
        ({"prompt": "x" * 40_000}, ("longer than",)),
        ({"n_iter": 100}, ("at most 64 pictures",)),
        ({"restore_faces": True}, ("restore_faces cannot be True here", "send False")),
        ({"tiling": True}, ("tiling",)),
        ({"enable_hr": True, "hr_sampler_name": "Restart"}, ("there is no sampler 'Restart'",)),
        ({"enable_hr": True, "hr_checkpoint_name": "x"}, ("hr_checkpoint_name cannot be 'x'",)),
        ({"script_name": "X/Y/Z plot"}, ("script_name",)),
        (
            {"alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "face_yolov8n.pt"}]}}},
            ("alwayson_scripts has no 'ADetailer' here: leave it out",),
        ),
        (
            {"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"},
            (
                "hr_upscaler cannot be used",
                "no upscaler 'R-ESRGAN 4x+'",
                "Lanczos, Nearest, Latent",
            ),
        ),
        ({"enable_hr": True, "denoising_strength": 0}, ("hires_strength must be above 0",)),
        ({"enable_hr": True, "hr_resize_x": 900}, ("hires_width must be at most 8 times",)),
        ({"override_settings": {"sd_vae": "x.pt"}}, ("sd_vae must be Automatic",)),
        ({"override_settings": {"samples_format": "gif"}}, ("samples_format",)),
        ({"override_settings": []}, ("override_settings must be an object",)),
        ({"enable_hr": "yes"}, ("enable_hr must be true or false",)),
    ],
)
def test_what_is_wrong_is_named(client, fields, parts) -> None:
    refused(client, TXT2IMG, *parts, **fields)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({}, ("init_images must be a list of one picture",)),
        ({"init_images": ["/etc/passwd"]}, ("init_images is not a picture that can be read",)),
        ({"init_images": ["http://localhost/x.png"]}, ("init_images must be a picture",)),
        ({"init_images": ["aGVsbG8="]}, ("init_images is not a picture that can be read",)),
        ({"init_images": [""]}, ("init_images is not a picture that can be read",)),
        ({"init_images": ["data:image/png,xyz"]}, ("init_images must be a data URL in base64",)),
        ({"init_images": [sent(photo())[:-300]]}, ("init_images is not a picture that can be",)),
        ({"init_images": ["a"]}, ("init_images must be a picture in base64",)),
        ({"init_images": ["привет"]}, ("init_images must be a picture in base64",)),
        ({"init_images": [sent(photo())], "resize_mode": 4}, ("resize_mode must be at least 0",)),
        (
            {
                **{"init_images": [sent(photo())], "mask": sent(photo()), "resize_mode": 3},
                "inpaint_full_res": False,
            },
            ("resize_mode cannot be 3 with a mask",),
        ),
        ({"init_images": [sent(photo())], "denoising_strength": -1}, ("strength must be from 0",)),
        (
            {"init_images": [sent(photo())], "mask": sent(photo()), "mask_blur_x": 999},
            ("mask_blur must be from 0 to 256",),
        ),
        (
            {"init_images": [sent(photo())], "mask": sent(photo()), "inpainting_fill": 4},
            ("inpainting_fill must be at least 0 and at most 3",),
        ),
    ],
)
def test_what_is_wrong_with_a_picture_is_named(client, fields, parts) -> None:
    refused(client, IMG2IMG, *parts, **fields)


@pytest.mark.parametrize(
    ("content", "kind", "status", "part"),
    [
        (b"{", "application/json", 400, "is not JSON"),
        (b"[" * 100_000, "application/json", 400, "is not JSON"),
        (b"\xff", "application/json", 400, "is not JSON"),
        (b'{"steps": NaN}', "application/json", 400, "there is no number NaN"),
        (b'{"mystery": 1e999}', "application/json", 400, "there is no number 1e999"),
        (b"[]", "application/json", 400, "must be a JSON object"),
        (b"{}", "text/plain", 415, "must be application/json"),
    ],
)
def test_what_is_no_json_object(client, content, kind, status, part) -> None:
    answer = client.post(TXT2IMG, content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert part in answer.json()["detail"]


def test_what_is_not_there(client) -> None:
    answer = client.post("/sdapi/v1/interrogate", json={})
    assert answer.status_code == 404
    assert "there is no /sdapi/v1/interrogate here" in answer.json()["detail"]
    answer = client.get(TXT2IMG)
    assert answer.status_code == 405
    assert "does not take GET" in answer.json()["detail"]
