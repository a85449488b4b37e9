"""The world that the pocket model knows: pictures, drawn from scenes, and captions of them.

A scene is a list of things, painted in order over a background. Scenes come in kinds: one object,
two with a relation between them, three in a row, and landscapes. What a scene shows is its `key`;
one key in ten is never drawn for training (`held_out`), and the evaluation uses those alone.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

import shapes

SIZE = 128

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 44),
    "orange": (247, 140, 24),
    "yellow": (252, 220, 50),
    "green": (46, 164, 74),
    "blue": (42, 92, 220),
    "purple": (132, 54, 176),
    "pink": (248, 130, 190),
    "brown": (124, 72, 36),
    "white": (255, 255, 255),
    "black": (28, 28, 32),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 247),
    "gray": (148, 152, 158),
    "beige": (236, 220, 188),
    "light blue": (176, 216, 242),
    "dark blue": (26, 34, 82),
}
# Colours that cannot be told from a background.
UNSEEN = {"white": ("white",), "dark blue": ("black", "blue", "purple")}
SCENERY: dict[str, tuple[int, int, int]] = {
    "day": (168, 212, 244),
    "night": (24, 30, 74),
    "hills day": (112, 184, 92),
    "hills night": (34, 84, 70),
    "sea day": (52, 130, 200),
    "sea night": (24, 66, 124),
    "sun": (255, 206, 58),
    "moon": (246, 240, 206),
    "leaves": (44, 138, 66),
    "wood": (120, 76, 44),
    "glass": (255, 232, 140),
    "tiles": (112, 52, 44),
}
SHAPES = tuple(shapes.SHAPES)
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": 0.68, "medium": 1.0, "large": 1.38}
RELATIONS = ("left", "right", "above", "below", "inside")
PLACES = ("left", "right", "top", "bottom", "middle")


@dataclass(frozen=True)
class Thing:
    """One layer of a picture: a shape of `shapes` about (x, y) with radius r, in pixels."""

    kind: str
    color: tuple[int, int, int]
    x: float
    y: float
    r: float
    texture: str = "plain"
    name: str = ""  # the colour's name, or what scenery it is


@dataclass(frozen=True)
class Object:
    """What a caption says of an object."""

    color: str
    shape: str
    texture: str = "plain"
    size: str = "medium"


@dataclass(frozen=True)
class Scene:
    kind: str  # "one" | "two" | "three" | "land"
    objects: tuple[Object, ...]
    relation: str  # a place, a relation, a row's direction, or a landscape's ground
    background: str  # or "day", "night"
    things: tuple[Thing, ...]
    extras: tuple[str, ...] = ()  # a landscape's: "sun", "moon", "tree", "house"

    @property
    def key(self) -> str:
        """What is shown, apart from exact positions, sizes and the background."""
        said = [f"{o.texture} {o.color} {o.shape}" for o in self.objects]
        return " / ".join([self.kind, self.relation, *said, *self.extras])

    @property
    def held_out(self) -> bool:
        return zlib.crc32(self.key.encode()) % 10 == 0


# ---- pictures ------------------------------------------------------------------------------------


def shade(color: tuple[int, int, int]) -> np.ndarray:
    """The second colour of a texture: darker than a light colour, lighter than a dark one."""
    rgb = np.asarray(color, np.float32)
    light = rgb @ np.array([0.3, 0.59, 0.11], np.float32) > 120
    return rgb * 0.72 if light else rgb + (255 - rgb) * 0.36


def render(scene: Scene, size: int = SIZE) -> np.ndarray:
    """The picture, [size, size, 3] uint8."""
    scale = size / SIZE
    color = BACKGROUNDS.get(scene.background) or SCENERY[scene.background]
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = color
    if scene.background == "night":
        _stars(picture, scale)
    for thing in scene.things:
        _paint(picture, thing, scale)
    return (picture + 0.5).astype(np.uint8)


def _paint(picture: np.ndarray, thing: Thing, scale: float) -> None:
    size = picture.shape[0]
    if thing.kind in ("hills", "sea"):
        top, bottom, left, right = 0, size, 0, size
    else:
        reach = 1.5 * thing.r + 1
        top, bottom = _span(thing.y - reach, thing.y + reach, scale, size)
        left, right = _span(thing.x - reach, thing.x + reach, scale, size)
    y = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / scale - thing.y)[:, None]
    x = ((np.arange(left, right, dtype=np.float32) + 0.5) / scale - thing.x)[None, :]
    distance = getattr(shapes, thing.kind)(x, y, thing.r) * scale
    cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
    ink: np.ndarray = np.asarray(thing.color, np.float32)
    if thing.texture != "plain":
        pattern = np.clip(0.5 - _pattern(thing.texture, x, y) * scale, 0.0, 1.0)[..., None]
        ink = ink + (shade(thing.color) - ink) * pattern
    area = picture[top:bottom, left:right]
    area += (ink - area) * cover


def _span(low: float, high: float, scale: float, size: int) -> tuple[int, int]:
    return max(0, int(low * scale)), min(size, int(high * scale) + 1)


def _pattern(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the second colour: slanted stripes 9 pixels apart, or dots on a grid of 10."""
    if texture == "striped":
        return np.abs((x + y) * 0.7071 % 9.0 - 4.5) - 2.25
    return np.hypot(x % 10.0 - 5.0, y % 10.0 - 5.0) - 2.7


def _stars(picture: np.ndarray, scale: float) -> None:
    for x, y in ((14, 40), (30, 14), (52, 30), (70, 10), (88, 38), (108, 50), (118, 20), (44, 56)):
        row, column, width = round(y * scale), round(x * scale), max(1, round(1.6 * scale))
        picture[row : row + width, column : column + width] = (226, 226, 200)


def layout(scene: Scene, cells: int = 8) -> np.ndarray:
    """Which thing is seen at the middle of each cell: [cells, cells], 0 is the background, else the
    thing's place in `things` plus one."""
    seen = np.zeros((cells, cells), np.int64)
    at = (np.arange(cells) + 0.5) * SIZE / cells
    for i, thing in enumerate(scene.things, 1):
        d = getattr(shapes, thing.kind)(at[None, :] - thing.x, at[:, None] - thing.y, thing.r)
        seen[np.broadcast_to(d < 0, seen.shape)] = i
    return seen


# ---- scenes --------------------------------------------------------------------------------------


def sample(random: np.random.Generator, *, held_out: bool = False, kind: str = "") -> Scene:
    """A scene whose key is, or is not, among those kept for the evaluation."""
    while True:
        chosen = kind or random.choice(KINDS, p=KIND_ODDS)
        scene = MAKERS[str(chosen)](random)
        if scene.held_out == held_out:
            return scene


def _object(random: np.random.Generator, background: str, sizes: tuple[str, ...]) -> Object:
    colors = [c for c in COLORS if c not in UNSEEN.get(background, ())]
    return Object(
        color=str(random.choice(colors)),
        shape=str(random.choice(SHAPES)),
        texture=str(random.choice(TEXTURES, p=(0.7, 0.15, 0.15))),
        size=str(random.choice(sizes)),
    )


def _background(random: np.random.Generator) -> str:
    return str(random.choice(list(BACKGROUNDS), p=(0.4, 0.15, 0.15, 0.15, 0.15)))


def _thing(made: Object, x: float, y: float, r: float) -> Thing:
    return Thing(made.shape, COLORS[made.color], x, y, r, made.texture, made.color)


def _one(random: np.random.Generator) -> Scene:
    background = _background(random)
    made = _object(random, background, ("small", "medium", "medium", "large"))
    place = str(random.choice(PLACES, p=(0.15, 0.15, 0.15, 0.15, 0.4)))
    r = 26.0 * SIZES[made.size] * random.uniform(0.94, 1.06)
    x, y = 64 + random.uniform(-4, 4, 2)
    reach = 64 - r - 5
    shift = min(34.0, reach)
    x += {"left": -shift, "right": shift}.get(place, 0.0)
    y += {"top": -shift, "bottom": shift}.get(place, 0.0)
    return Scene("one", (made,), place, background, (_thing(made, x, y, r),))


def _two(random: np.random.Generator) -> Scene:
    background = _background(random)
    relation = str(random.choice(RELATIONS))
    if relation == "inside":
        return _inside(random, background)
    a, b = (_object(random, background, ("small", "medium", "medium", "large")) for _ in range(2))
    ra, rb = (20.0 * SIZES[o.size] * random.uniform(0.94, 1.06) for o in (a, b))
    gap = 128 - 2 * (ra + rb)
    free = random.dirichlet((3.0, 3.0, 3.0)) * (gap - 15) + 5
    first, second = free[0] + ra, 128 - free[2] - rb
    cross = 64 + random.uniform(-8, 8, 2)
    forward = relation in ("left", "above")
    along = (first, second) if forward else (128 - first, 128 - second)
    if relation in ("left", "right"):
        things = _thing(a, along[0], cross[0], ra), _thing(b, along[1], cross[1], rb)
    else:
        things = _thing(a, cross[0], along[0], ra), _thing(b, cross[1], along[1], rb)
    return Scene("two", (a, b), relation, background, things)


def _inside(random: np.random.Generator, background: str) -> Scene:
    """The first object in the second, which is large and has room for it."""
    b = _object(random, background, ("large",))
    b = Object(b.color, str(random.choice(("circle", "square", "diamond", "heart"))))
    while True:
        a = _object(random, background, ("medium",))
        apart = np.subtract(COLORS[a.color], COLORS[b.color])
        if np.abs(apart).sum() > 150:
            break
    rb = random.uniform(42, 48)
    ra = rb * random.uniform(0.34, 0.4)
    x, y = 64 + random.uniform(-5, 5, 2)
    room = y - 0.14 * rb if b.shape == "heart" else y  # a heart is widest above its middle
    things = _thing(b, x, y, rb), _thing(a, x, room, ra)
    return Scene("two", (a, b), "inside", background, things)


def _three(random: np.random.Generator) -> Scene:
    background = _background(random)
    made = tuple(_object(random, background, ("medium",)) for _ in range(3))
    row = str(random.choice(("row", "column"), p=(0.7, 0.3)))
    things = []
    for i, o in enumerate(made):
        r = 16.0 * random.uniform(0.92, 1.06)
        along = 23 + 41 * i + random.uniform(-2, 2)
        cross = 64 + random.uniform(-5, 5)
        things.append(_thing(o, *((along, cross) if row == "row" else (cross, along)), r))
    return Scene("three", made, row, background, tuple(things))


def _land(random: np.random.Generator) -> Scene:
    time = str(random.choice(("day", "night")))
    ground = str(random.choice(("hills", "sea"), p=(0.65, 0.35)))
    extras: list[str] = []
    things: list[Thing] = []
    items: tuple[Object, ...] = ()
    sides = random.permutation((34.0, 94.0)) + random.uniform(-5, 5, 2)

    def add(kind: str, color: str, x: float, y: float, r: float) -> None:
        rgb = COLORS.get(color) or SCENERY[color]
        things.append(Thing(kind, rgb, x, y, r, name=color))

    if random.uniform() < 0.75:
        light = "sun" if time == "day" else "moon"
        extras.append(light)
        add(light, light, sides[1], random.uniform(24, 30), 16 if light == "sun" else 14)
    if ground == "sea":
        add("sea", f"sea {time}", 0, random.uniform(76, 84), 0)
        return Scene("land", (), ground, time, tuple(things), tuple(extras))
    add("hills", f"hills {time}", random.uniform(-60, 60), random.uniform(88, 94), 6.0)
    if random.uniform() < 0.7:
        color = str(random.choice(("red", "orange", "yellow", "blue", "pink", "white", "purple")))
        items = (Object(color, "house"),)
        y = random.uniform(74, 78)
        add("wall", color, sides[0], y, 24)
        add("roof", "tiles", sides[0], y, 24)
        add("door", "wood", sides[0], y, 24)
        add("window", "glass", sides[0], y, 24)
    if random.uniform() < 0.6:
        extras.append("tree")
        y = random.uniform(72, 78)
        add("trunk", "wood", sides[1], y, 26)
        add("crown", "leaves", sides[1], y, 26)
    return Scene("land", items, ground, time, tuple(things), tuple(extras))


MAKERS = {"one": _one, "two": _two, "three": _three, "land": _land}
KINDS = tuple(MAKERS)
KIND_ODDS = (0.25, 0.5, 0.1, 0.15)
