"""The evaluator finds in rendered pictures what they were rendered from."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter

import evaluator
import score
import world


def scenes(count, kind, seed=11):
    random = np.random.default_rng(seed)
    return [world.sample(random, kind=kind) for _ in range(count)]


def test_it_is_right_in_98_of_100_rendered_pictures():
    drawn = [scene for kind in ("one", "two", "three") for scene in scenes(60, kind)]
    result = score.score([world.render(scene) for scene in drawn], drawn)
    assert result.color >= 0.98
    assert result.shape >= 0.98
    assert result.relation >= 0.98
    assert result.place >= 0.98


def test_it_reads_larger_pictures():
    drawn = scenes(10, "two")
    result = score.score([world.render(scene, 256) for scene in drawn], drawn)
    assert result.color == result.relation == 1


def test_it_withstands_what_a_decoder_does_to_pictures():
    """Blurred by half and with noise of 8 of 255."""
    random = np.random.default_rng(0)
    drawn = scenes(30, "one") + scenes(30, "two")
    pictures = []
    for scene in drawn:
        clean = world.render(scene).astype(np.float32)
        blurred = (clean + np.roll(clean, 1, 0) + np.roll(clean, 1, 1)) / 3
        noisy = blurred + random.normal(0, 8, blurred.shape)
        pictures.append(noisy.clip(0, 255).astype(np.uint8))
    result = score.score(pictures, drawn)
    assert result.color >= 0.95
    assert result.shape >= 0.95
    assert result.relation >= 0.95


def test_it_knows_shapes_without_their_points():
    drawn = scenes(60, "two", seed=12)
    pictures = [Image.fromarray(world.render(scene)) for scene in drawn]
    blurred = [np.asarray(p.filter(ImageFilter.GaussianBlur(1.5))) for p in pictures]
    assert score.score(blurred, drawn).shape >= 0.98


@pytest.mark.parametrize("wrong", ["color", "shape", "relation"])
def test_it_sees_what_is_wrong(wrong):
    other = {
        "color": {"red": "blue"},
        "shape": {"circle": "star", "square": "heart"},
    }
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    seen = 0
    for scene in scenes(40, "two"):
        if wrong == "relation":
            if scene.relation not in opposite or scene.objects[0] == scene.objects[1]:
                continue
            asked = dataclasses.replace(scene, relation=opposite[scene.relation])
        else:
            values = other[wrong]
            changed = tuple(
                dataclasses.replace(o, **{wrong: values.get(getattr(o, wrong), getattr(o, wrong))})
                for o in scene.objects
            )
            if changed == scene.objects:
                continue
            asked = dataclasses.replace(scene, objects=changed)
        verdict = evaluator.judge(world.render(scene), asked)
        full = (verdict.colors, verdict.shapes, verdict.relation) == (2, 2, True)
        assert not full, asked.key
        seen += 1
    assert seen >= 5


def test_nothing_is_found_where_nothing_is():
    blank = np.full((128, 128, 3), world.BACKGROUNDS["beige"], np.uint8)
    assert evaluator.find(blank) == []
    verdict = evaluator.judge(blank, scenes(1, "two")[0])
    assert (verdict.colors, verdict.shapes, verdict.relation) == (0, 0, False)


def test_a_hole_of_the_background_makes_a_ring():
    picture = np.full((128, 128, 3), 250, np.uint8)
    y, x = np.mgrid[-64:64, -64:64]
    picture[np.hypot(x, y) < 40] = world.COLORS["green"]
    assert [(f.color, f.shape) for f in evaluator.find(picture)] == [("green", "circle")]
    picture[np.hypot(x, y) < 22] = 250
    assert [(f.color, f.shape) for f in evaluator.find(picture)] == [("green", "ring")]


def test_an_object_may_fill_the_picture():
    picture = np.full((128, 128, 3), world.COLORS["red"], np.uint8)
    picture[40:80, 40:80] = world.COLORS["blue"]
    assert [(f.color, f.shape) for f in evaluator.find(picture)] == [
        ("red", "square"),
        ("blue", "square"),
    ]


def test_regions_are_those_of_a_flood_fill():
    mask = np.random.default_rng(0).uniform(size=(30, 40)) < 0.45
    found = evaluator.regions(mask)
    assert np.array_equal(np.sum(found, axis=0), mask)
    for region in found:
        start = np.argwhere(region)[0]
        reached, todo = np.zeros_like(mask), [tuple(start)]
        while todo:
            y, x = todo.pop()
            if 0 <= y < 30 and 0 <= x < 40 and mask[y, x] and not reached[y, x]:
                reached[y, x] = True
                todo += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        np.testing.assert_array_equal(region, reached)


def test_noise_is_in_no_relation():
    random = np.random.default_rng(0)
    drawn = scenes(30, "two")
    coarse = random.integers(0, 256, (30, 8, 8, 3), np.uint8)
    pictures = coarse.repeat(16, axis=1).repeat(16, axis=2)
    assert score.score(pictures, drawn).relation < 0.15
