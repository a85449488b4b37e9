"""Requests as programs that people use send them."""

from __future__ import annotations

import json

from server.serving import photo, read, sent

TXT2IMG = "/sdapi/v1/txt2img"


def test_silly_tavern_with_the_web_ui(client) -> None:
    assert client.get("/sdapi/v1/options", headers={"Authorization": "Basic Og=="}).is_success
    upscalers = [one["name"] for one in client.get("/sdapi/v1/upscalers").json()]
    upscalers[1:1] = [one["name"] for one in client.get("/sdapi/v1/latent-upscale-modes").json()]
    assert isinstance(client.get("/sdapi/v1/sd-vae").json(), list)
    assert client.get("/sdapi/v1/sd-modules").status_code == 404  # Forge's: it does without
    title = client.get("/sdapi/v1/sd-models").json()[0]["title"]
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": title}).is_success
    now = client.get("/sdapi/v1/progress").json()
    assert (now["progress"], now["state"]["job_count"]) == (0, 0)
    answer = client.post(
        TXT2IMG,
        json={
            "prompt": "a cat",
            "negative_prompt": "dog",
            "sampler_name": client.get("/sdapi/v1/samplers").json()[0]["name"],
            "scheduler": client.get("/sdapi/v1/schedulers").json()[0]["name"],
            "steps": 2,
            "cfg_scale": 7,
            "width": 16,
            "height": 16,
            "restore_faces": False,
            "enable_hr": True,
            "hr_upscaler": upscalers[1],  # Latent
            "hr_scale": 1.5,
            "denoising_strength": 0.7,
            "hr_second_pass_steps": 0,
            "seed": 5,
            "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": ""},
            "override_settings_restore_afterwards": True,
            "clip_skip": 1,
            "save_images": True,
            "send_images": True,
            "do_not_save_grid": False,
            "do_not_save_samples": False,
        },
    )
    assert read(answer.json()["images"][0]).size == (24, 24)
    assert client.post("/sdapi/v1/interrupt").is_success


def test_silly_tavern_with_stable_diffusion_cpp(client) -> None:
    assert client.options("/v1/images/generations").is_success
    fields = {"prompt": "a cat", "negative_prompt": "", "width": 16, "height": 16, "steps": 2}
    fields |= {"cfg_scale": 7, "seed": -1, "batch_size": 1, "sampler_name": "euler_a"}
    answer = client.post(TXT2IMG, json=fields | {"scheduler": "discrete", "clip_skip": -1})
    assert read(answer.json()["images"][0]).size == (16, 16)


def test_what_the_web_uis_own_page_sends(client) -> None:
    """As its extension for it, API payload, shows it."""
    fields = {"batch_size": 1, "cfg_scale": 7, "comments": {}, "disable_extra_networks": False}
    fields |= {"do_not_save_grid": False, "do_not_save_samples": False, "height": 24, "n_iter": 1}
    fields |= {"negative_prompt": "", "override_settings": {}, "prompt": "a cat", "width": 16}
    fields |= {"override_settings_restore_afterwards": True, "restore_faces": False, "seed": -1}
    fields |= {"s_churn": 0.0, "s_min_uncond": 0, "s_noise": 1.0, "s_tmax": None, "s_tmin": 0.0}
    fields |= {"sampler_name": "DPM++ 2M", "scheduler": "Automatic", "script_args": []}
    fields |= {"script_name": None, "seed_enable_extras": True, "seed_resize_from_h": -1}
    fields |= {"seed_resize_from_w": -1, "steps": 2, "styles": [], "subseed": -1}
    fields |= {"subseed_strength": 0, "tiling": False}
    scripts = {"Refiner": [False, "", 0.8], "Sampler": [2, "DPM++ 2M", "Automatic"]}
    scripts |= {"Seed": [-1, False, -1, 0, 0, 0], "Comments": [], "Extra options": []}
    fields["alwayson_scripts"] = {name: {"args": args} for name, args in scripts.items()}
    first = {"enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_resize_x": 0}
    first |= {"hr_negative_prompt": "", "hr_prompt": "", "hr_resize_y": 0}
    first |= {"hr_second_pass_steps": 0, "denoising_strength": 0.7}
    over = {"init_images": [sent(photo())], "denoising_strength": 0.75, "image_cfg_scale": 1.5}
    over |= {"initial_noise_multiplier": 1.0, "inpaint_full_res": 0, "inpainting_fill": 1}
    over |= {"inpaint_full_res_padding": 32, "inpainting_mask_invert": 0, "mask_blur": 4}
    over |= {"mask_blur_x": 4, "mask_blur_y": 4, "mask_round": True, "resize_mode": 0}
    for path, more in ((TXT2IMG, first), ("/sdapi/v1/img2img", over)):
        body = client.post(path, json=fields | more).json()
        assert len(body["images"]) == 1
        assert json.loads(body["info"])["comments"] == []


def test_open_webui_with_the_web_ui(client) -> None:
    options = client.get("/sdapi/v1/options").json()
    models = [model["title"] for model in client.get("/sdapi/v1/sd-models").json()]
    assert options["sd_model_checkpoint"] in models
    assert client.post("/sdapi/v1/options", json=options).is_success
    fields = {"prompt": "a cat", "batch_size": 2, "width": 16, "height": 16, "steps": 2}
    body = client.post(TXT2IMG, json=fields).json()
    assert len(body["images"]) == 2
    assert json.loads(body["info"])["prompt"] == "a cat"


def test_open_webui_with_openai(client) -> None:
    fields = {"model": "dall-e-2", "prompt": "a cat", "n": 1, "size": "16x16"}
    fields |= {"response_format": "b64_json", "steps": 2}
    body = client.post("/v1/images/generations", json=fields).json()
    assert read(body["data"][0]["b64_json"]).size == (16, 16)


def test_kobold_ai_lite(client) -> None:
    page = {"origin": "https://lite.koboldai.net"}
    for path in ("sd-models", "options", "samplers"):
        answer = client.get(f"/sdapi/v1/{path}", headers=page)
        assert answer.headers["access-control-allow-origin"] == page["origin"]
    fields = {"prompt": "a cat", "negative_prompt": "ugly", "cfg_scale": 7, "steps": 2}
    fields |= {"width": 16, "height": 16, "seed": -1, "sampler_name": "Euler a", "n_iter": 1}
    fields |= {"override_settings": {"sd_model_checkpoint": "plain"}, "batch_size": 1}
    assert len(client.post(TXT2IMG, json=fields, headers=page).json()["images"]) == 1


def test_cyanic_krita(client) -> None:
    assert client.get("/queue/status").json() == {"queue_size": 0, "running": False}
    for name in (
        *("sd-models", "sd-vae", "samplers", "upscalers", "face-restorers", "prompt-styles"),
        *("scripts", "loras", "embeddings", "hypernetworks", "options", "progress"),
    ):
        assert client.get(f"/sdapi/v1/{name}").is_success, name
    fields = {"prompt": "a cat", "negative_prompt": "", "sampler_name": "DDIM", "steps": 4}
    fields |= {"cfg_scale": 7.0, "seed": -1, "batch_size": 1, "n_iter": 1, "width": 16}
    fields |= {"height": 24, "denoising_strength": 0.6, "init_images": [sent(photo())]}
    fields |= {"mask": "data:image/png;base64," + sent(photo().convert("L")), "mask_blur": 2}
    fields |= {"inpainting_fill": 0, "inpaint_full_res": False, "inpainting_mask_invert": 0}
    fields |= {"override_settings": {"img2img_color_correction": True}}
    fields |= {"override_settings_restore_afterwards": False, "refiner_switch_at": 1.0}
    body = client.post("/sdapi/v1/img2img", json=fields).json()
    assert read(body["images"][0]).size == (16, 24)
    assert "img2img_color_correction" in json.loads(body["info"])["comments"][0]
