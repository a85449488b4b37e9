"""Captions of scenes, with free variation of wording."""

from __future__ import annotations

import numpy as np

from world import Object, Scene

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
BEFORE = {"striped": ("striped",), "dotted": ("dotted", "spotted")}
AFTER = {"striped": ("with stripes",), "dotted": ("with dots",)}
RELATION_WORDS = {
    "left": ("on the left of", "to the left of", "left of"),
    "right": ("on the right of", "to the right of", "right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "inside": ("inside", "in", "within", "inside of"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
PLACE_WORDS = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "on the top"),
    "bottom": ("at the bottom", "on the bottom"),
    "middle": ("", "", "", "in the middle", "in the center"),
}
OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "an image of ")


def caption(scene: Scene, random: np.random.Generator) -> str:
    """One of the many ways to say what the scene shows."""
    pick = Picker(random)
    body = WRITERS[scene.kind](scene, pick)
    if scene.kind != "land" and pick.odds(0.5):
        backdrop = pick(f"{scene.background} background", f"{scene.background} backdrop")
        body += pick(f" on a {backdrop}", f", {backdrop}", f" in front of a {backdrop}")
    return pick(*OPENINGS) + body


class Picker:
    def __init__(self, random: np.random.Generator) -> None:
        self.random = random

    def __call__(self, *choices: str) -> str:
        return choices[int(self.random.integers(len(choices)))]

    def odds(self, chance: float) -> bool:
        return bool(self.random.uniform() < chance)


def noun(made: Object, pick: Picker) -> str:
    """`a large striped red circle`; a size that is usual is not said."""
    words = [pick(*SIZE_WORDS[made.size])] if made.size in SIZE_WORDS else []
    tail = ""
    if made.texture in BEFORE:
        if pick.odds(0.6):
            words.append(pick(*BEFORE[made.texture]))
        else:
            tail = " " + pick(*AFTER[made.texture])
    elif pick.odds(0.08):
        words.append(pick("plain", "solid"))
    text = " ".join([*words, made.color, made.shape]) + tail
    article = "an" if text[0] in "aeiou" else "a"
    return text if pick.odds(0.07) else f"{article} {text}"


def _one(scene: Scene, pick: Picker) -> str:
    place = pick(*PLACE_WORDS[scene.relation])
    return f"{noun(scene.objects[0], pick)} {place}".rstrip()


def _two(scene: Scene, pick: Picker) -> str:
    a, b = (noun(o, pick) for o in scene.objects)
    relation = scene.relation
    if relation == "inside":
        return pick(
            f"{a} {pick(*RELATION_WORDS[relation])} {b}",
            f"{a} {pick(*RELATION_WORDS[relation])} {b}",
            f"{b} with {a} {pick('inside', 'in it', 'inside it')}",
        )
    if pick.odds(0.3):  # the same picture, told from the other object
        a, b, relation = b, a, OPPOSITE[relation]
    if relation == "left" and pick.odds(0.2):
        return pick(f"{a} next to {b}", f"{a} and {b}", f"{a} beside {b}")
    return f"{a} {pick(*RELATION_WORDS[relation])} {b}"


def _three(scene: Scene, pick: Picker) -> str:
    a, b, c = (noun(o, pick) for o in scene.objects)
    text = f"{a}, {b} and {c}"
    if scene.relation == "column":
        return text + pick(" from top to bottom", " in a column", " stacked")
    return text + pick("", " in a row", " from left to right")


def _land(scene: Scene, pick: Picker) -> str:
    time = scene.background
    subjects = []
    if scene.objects:
        subjects.append(f"a {scene.objects[0].color} house")
    if "tree" in scene.extras:
        subjects.append("a tree")
    ground = {"hills": ("hills", "green hills", "the hills"), "sea": ("the sea", "sea")}
    where = pick(*ground[scene.relation])
    light = next((e for e in scene.extras if e in ("sun", "moon")), "")
    lit = {"sun": ("under the sun", "with the sun", "and the sun"), "moon": ("under the moon",)}
    when = {"day": ("by day", "in the day", "on a sunny day"), "night": ("at night", "by night")}
    if subjects:
        text = f"{' and '.join(subjects)} on {where}"
        text += f" {pick(*lit[light])}" if light else ""
    elif light:
        text = f"the {light} {pick('over', 'above')} {where}"
    else:
        text = where.removeprefix("the ")
    # A light says the time of day itself.
    return text if light and pick.odds(0.4) else f"{text} {pick(*when[time])}"


WRITERS = {"one": _one, "two": _two, "three": _three, "land": _land}
