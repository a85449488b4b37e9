"""The pocket model's world: scenes, their pictures and their captions agree with each other."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import captions
import world


def scenes(count, seed=0, **options):
    random = np.random.default_rng(seed)
    return [world.sample(random, **options) for _ in range(count)]


def test_the_world_is_as_large_as_promised():
    assert len(world.SHAPES) >= 8
    assert len(world.COLORS) >= 10
    assert len(world.SIZES) >= 3
    assert {"plain", "striped", "dotted"} <= set(world.TEXTURES)
    assert {"left", "right", "above", "below", "inside"} <= set(world.RELATIONS)
    drawn = scenes(300)
    assert {len(s.objects) for s in drawn} == {0, 1, 2, 3}
    assert {s.background for s in drawn} == {*world.BACKGROUNDS, "day", "night"}
    kinds = {thing.kind for s in drawn for thing in s.things}
    assert {"sun", "moon", "wall", "crown", "hills", "sea", *world.SHAPES} <= kinds


def test_a_seed_gives_the_same_pictures_and_captions():
    for a, b in zip(scenes(20, seed=3), scenes(20, seed=3), strict=True):
        assert a == b
        np.testing.assert_array_equal(world.render(a), world.render(b))
        first, second = (captions.caption(s, np.random.default_rng(1)) for s in (a, b))
        assert first == second


def test_training_and_evaluation_share_no_scene():
    trained = {s.key for s in scenes(400, seed=1)}
    kept = {s.key for s in scenes(100, seed=2, held_out=True)}
    assert not trained & kept


@pytest.mark.parametrize("kind", world.KINDS)
def test_a_larger_picture_shows_the_same(kind):
    for scene in scenes(5, kind=kind):
        small = world.render(scene)
        assert small.shape == (world.SIZE, world.SIZE, 3)
        large = Image.fromarray(world.render(scene, 2 * world.SIZE))
        halved = np.asarray(large.resize((world.SIZE, world.SIZE), Image.Resampling.BOX))
        error = np.abs(halved.astype(float) - small)
        # Edges are smooth over a pixel of either, so only edge pixels may differ.
        assert error.mean() < 4
        assert np.median(error) == 0


def test_objects_lie_within_the_picture():
    for scene in scenes(200, kind="one") + scenes(200, kind="two") + scenes(200, kind="three"):
        for thing in scene.things:
            assert thing.x - 0.8 * thing.r > 0 and thing.x + 0.8 * thing.r < world.SIZE
            assert thing.y - 0.8 * thing.r > 0 and thing.y + 0.8 * thing.r < world.SIZE


def test_the_layout_names_what_the_picture_shows():
    for scene in scenes(20, kind="two"):
        picture = world.render(scene)
        cells = world.layout(scene, cells=world.SIZE)
        shown = [world.BACKGROUNDS[scene.background], *(t.color for t in scene.things)]
        for i, color in enumerate(shown):
            if i == 0 or scene.things[i - 1].texture == "plain":
                # Only smooth edges have a colour between two.
                assert (picture[cells == i] == color).all(-1).mean() > 0.8


def test_what_is_inside_does_not_stick_out():
    inside = [s for s in scenes(150, kind="two") if s.relation == "inside"]
    assert len({s.objects[1].shape for s in inside}) > 2
    for scene in inside:
        outer = scene.things[0]
        alone = world.layout(dataclasses.replace(scene, things=(outer,)), cells=world.SIZE)
        both = world.layout(scene, cells=world.SIZE)
        assert (alone[both == 2] == 1).all(), scene.key


def test_captions_say_each_object():
    random = np.random.default_rng(0)
    for scene in scenes(200):
        text = captions.caption(scene, random)
        for made in scene.objects:
            assert f"{made.color} {made.shape}" in text
            if made.texture != "plain":
                assert any(w in text for w in (*captions.BEFORE[made.texture], "with "))


def test_captions_say_relations_from_either_side():
    random = np.random.default_rng(0)
    scene = next(s for s in scenes(100, kind="two") if s.relation == "above")
    a, b = (o.shape for o in scene.objects)
    if a == b:
        pytest.skip("the scene has one shape twice")
    for _ in range(40):
        text = captions.caption(scene, random)
        words = captions.RELATION_WORDS["above" if text.index(a) < text.index(b) else "below"]
        assert any(f" {word} " in text for word in words)


def test_wording_varies():
    random = np.random.default_rng(0)
    for scene in scenes(10, kind="two"):
        assert len({captions.caption(scene, random) for _ in range(30)}) > 10
