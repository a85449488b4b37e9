"""The evaluation itself: what it says of pictures that are right, and of pictures that are not."""

import dataclasses
from types import SimpleNamespace

import numpy as np
from PIL import Image

import score
import world


class Painter:
    """Draws each prompt as it is asked to, or in a colour and shape of its own."""

    def __init__(self, scenes, change=lambda scene: scene):
        self.scenes = {prompt: change(scene) for scene, prompt in scenes}
        self.seeds = []

    def __call__(self, prompts, seed):
        self.seeds += range(seed, seed + len(prompts))
        pictures = [world.render(self.scenes[prompt]) for prompt in prompts]
        return SimpleNamespace(images=[Image.fromarray(p) for p in pictures])


def judged(painter, scenes):
    pictures = score.draw(painter, [prompt for _, prompt in scenes], batch=8)
    return score.score(pictures, [scene for scene, _ in scenes])


def test_right_pictures_score_full():
    scenes = score.held_out(24)
    painter = Painter(scenes)
    result = judged(painter, scenes)
    assert min(dataclasses.astuple(result)) >= 0.95
    assert painter.seeds == list(range(24))  # a picture's noise does not depend on the batch


def test_pictures_of_something_else_score_low():
    scenes = score.held_out(24)
    others = iter(score.held_out(24, seed=5))
    result = judged(Painter(scenes, lambda scene: next(others)[0]), scenes)
    assert result.color < 0.5
    assert result.shape < 0.5
    assert result.relation < 0.5


def test_mirrored_pictures_have_all_but_the_relation():
    scenes = [(s, p) for s, p in score.held_out(60) if s.kind == "two" and s.relation != "inside"]
    pictures = [np.ascontiguousarray(world.render(s)[::-1, ::-1]) for s, _ in scenes]
    result = score.score(pictures, [s for s, _ in scenes])
    assert result.color >= 0.95
    assert result.relation == 0


def test_the_evaluation_is_of_scenes_kept_from_training():
    scenes = [scene for scene, _ in score.held_out(40)]
    assert all(scene.held_out for scene in scenes)
    assert [s.kind for s in scenes[:4]] == list(score.KINDS)
    assert len({scene.key for scene in scenes}) == len(scenes)
