"""Pictures enlarged by filters, as the web UI's tab of extras does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from sdcore.image_io import parameters_of
from server.serving import SMALL, photo, pixels, read, sent

ONE, MANY = "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images"
# As sdwebuiapi sends it.
FIELDS: dict[str, Any] = {"resize_mode": 0, "show_extras_results": True, "gfpgan_visibility": 0}
FIELDS |= {"codeformer_visibility": 0, "codeformer_weight": 0, "upscaling_resize": 2}
FIELDS |= {"upscaling_resize_w": 512, "upscaling_resize_h": 512, "upscaling_crop": True}
FIELDS |= {"upscaler_1": "None", "upscaler_2": "None", "extras_upscaler_2_visibility": 0}
FIELDS |= {"upscale_first": False}


def enlarged(client, **fields: Any) -> np.ndarray:
    answer = client.post(ONE, json={**FIELDS, "image": sent(photo()), **fields})
    assert answer.status_code == 200, answer.text
    return pixels(answer.json()["image"])


@pytest.mark.parametrize("name", ["Lanczos", "Nearest"])
def test_a_picture_is_enlarged_by_a_filter(client, name) -> None:
    how = getattr(Image.Resampling, name.upper())
    twice = np.asarray(photo().resize((32, 48), how))
    assert np.array_equal(enlarged(client, upscaler_1=name), twice)
    assert np.array_equal(enlarged(client, upscaler_1=name.lower(), upscaling_resize=None), twice)
    to = {"upscaler_1": name, "resize_mode": 1, "upscaling_resize_w": 40, "upscaling_resize_h": 40}
    cut = np.asarray(ImageOps.fit(photo(), (40, 40), how))
    assert np.array_equal(enlarged(client, **to), cut)
    whole = np.asarray(photo().resize((40, 60), how))
    assert np.array_equal(enlarged(client, **to, upscaling_crop=False), whole)


def test_two_filters_are_mixed_and_none_changes_nothing(client) -> None:
    fields = {"upscaler_1": "Lanczos", "upscaler_2": "Nearest"}
    sides = [photo().resize((32, 48), how) for how in (Image.Resampling.LANCZOS, 0)]
    mixed = enlarged(client, **fields, extras_upscaler_2_visibility=0.25)
    assert np.array_equal(mixed, np.asarray(Image.blend(*sides, 0.25)))
    assert np.array_equal(enlarged(client, **fields), np.asarray(sides[0]))
    assert np.array_equal(enlarged(client), np.asarray(photo()))


def test_several_pictures_keep_their_settings(client) -> None:
    drawn = client.post("/sdapi/v1/txt2img", json={"prompt": "a cat", **SMALL}).json()["images"][0]
    images = [{"data": drawn, "name": "a"}, {"data": sent(photo(8, 8)), "name": "b"}]
    body = client.post(MANY, json={**FIELDS, "upscaler_1": "Lanczos", "imageList": images}).json()
    assert [read(image).size for image in body["images"]] == [(32, 48), (16, 16)]
    assert parameters_of(read(body["images"][0])) == parameters_of(read(drawn))
    assert body["html_info"] == "<p>Postprocess upscale by: 2, Postprocess upscaler: Lanczos</p>"


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"upscaler_1": "R-ESRGAN 4x+"}, "use one of None, Lanczos, Nearest"),
        ({"upscaler_2": "Latent"}, "upscaler_2 cannot be used: [upscaler] there is no"),
        ({"gfpgan_visibility": 0.5}, "gfpgan_visibility cannot be 0.5 here"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 0}, "upscaling_resize must give sides of 1"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 999}, "upscaling_resize must give sides"),
        ({"extras_upscaler_2_visibility": 2}, "extras_upscaler_2_visibility must be from 0 to 1"),
        ({"image": None}, "image must be a picture in base64"),
        ({"image": "aGVsbG8"}, "image is not a picture that can be read"),
    ],
)
def test_what_is_wrong_is_named(client, fields, part) -> None:
    answer = client.post(ONE, json={**FIELDS, "image": sent(photo()), **fields})
    assert answer.status_code == 422
    assert part in answer.json()["detail"]
    for images in (None, [], [{"name": "a"}]):
        answer = client.post(MANY, json={**FIELDS, "imageList": images})
        assert answer.status_code == 422
        assert "imageList must be a" in answer.json()["detail"]
