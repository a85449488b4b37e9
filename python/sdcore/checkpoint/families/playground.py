"""Playground v2.5 (playgroundai/playground-v2.5-1024px-aesthetic)."""

from __future__ import annotations

from sdcore.checkpoint.clue import Clue
from sdcore.checkpoint.family import Config, Family, Layout, Rules
from sdcore.checkpoint.unet_families import LABEL, SDXL, TWO_CLIPS, folder_xl

_EDM: Config = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "rho": 7.0,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}

FAMILIES = {
    "playground-v2.5": Family(
        "Playground v2.5",
        TWO_CLIPS,
        "stable_diffusion_xl.StableDiffusionXLPipeline",
        scheduler=_EDM,
        configs={
            "unet": {"sample_size": 128},
            "vae": {
                "scaling_factor": 0.5,
                "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
                "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
            },
        },
        layout=Layout(SDXL, folder_xl("StableDiffusionXLPipeline")),
    )
}

RULES: Rules = (
    ("playground-v2.5", (Clue(LABEL, (None, 2816)), Clue(r"^edm_mean$"), Clue(r"^edm_std$"))),
)
