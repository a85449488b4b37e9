"""Parts of another family in place of a model's own: one clear error each, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import sdcore
import tiny_families
import tiny_models
import tiny_transformers
from sdcore import checkpoint
from sdcore.pipelines.plan import plan

SD2, SDXL, _ = tiny_families.FAMILIES


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders."""
    root = tmp_path_factory.mktemp("models")
    tiny_models.save_folder(tiny_models.PLAIN, root / "sd1")
    tiny_families.save_folder(SD2, root / "sd2")
    tiny_families.save_folder(SDXL, root / "sdxl")
    tiny_transformers.pixart_pipeline(root / "pixart", False)
    tiny_transformers.sd3_pipeline(root / "sd3")
    tiny_transformers.t5(64).save_pretrained(root / "t5")
    return root


@pytest.mark.parametrize(
    ("model", "part", "other", "message"),
    [
        ("sd1", "text_encoder", "sd2/text_encoder", "UNet takes texts of 64 channels, .* 1024"),
        ("sd1", "text_encoder", "t5", "must be a CLIPTextModel, and this is a T5EncoderModel"),
        ("sd1", "text_encoder", "sd1/vae", "has no text_encoder, only vae: it is no text_encoder"),
        ("sd1", "vae", "sd1/unet", "has no vae, only unet: it is no vae"),
        ("sd1", "vae", "sd3/vae", "latents of 16 channels, and the denoiser gives 4"),
        ("sdxl", "text_encoder_2", "sd1/text_encoder", "UNet takes texts of 192 channels, .* 128"),
        ("sdxl", "text_encoder", "sdxl/text_encoder_2", "UNet takes texts of 192 channels, .* 256"),
        ("sdxl", "vae", "sd3/vae", "latents of 16 channels, and the denoiser gives 4"),
        ("pixart", "text_encoder", "t5", "gives 64 channels, and the transformer takes 48"),
        (
            "pixart",
            "text_encoder",
            "sd1/text_encoder",
            "must be a T5EncoderModel, .* CLIPTextModel",
        ),
        ("pixart", "vae", "sd3/vae", "latents of 16 channels, and the denoiser gives 8"),
        ("sd3", "text_encoder", "t5", "must be a CLIPTextModel, and this is a T5EncoderModel"),
        ("sd3", "text_encoder_3", "t5", "gives 64 channels, and the transformer takes 192"),
        ("sd3", "vae", "pixart/vae", "latents of 4 channels, and the denoiser gives 16"),
    ],
)
def test_a_part_of_another_model_is_refused(
    models: Path, model: str, part: str, other: str, message: str
) -> None:
    with pytest.raises(sdcore.SDCoreError, match=message):
        sdcore.DiffusionPipeline.open(models / model, **{part: models / other})


@pytest.mark.parametrize(
    ("model", "multiple"), [("sd1", 2), ("sdxl", 2), ("pixart", 4), ("sd3", 4)]
)
def test_sizes_that_a_family_cannot_do_are_refused_alike(
    models: Path, model: str, multiple: int
) -> None:
    side = 16 + multiple // 2
    with pytest.raises(
        sdcore.InvalidArgumentError, match=f"multiples of {multiple}, got {side}x16"
    ):
        plan(checkpoint.open(models / model), side, 16, "f32")
    pipe = sdcore.DiffusionPipeline.open(models / model)
    with pytest.raises(
        sdcore.InvalidArgumentError, match=f"width must be a multiple of {multiple}"
    ):
        pipe("a cat", width=side, height=16)
