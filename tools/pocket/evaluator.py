"""Finds what is in a picture by plain image processing: objects by colour, shape and place.

No part of it is learned. Pixels take the name of the nearest colour of the world, and regions of
one name are objects. An object is the shape that covers it best with the same centre and area,
which blur leaves, while it wears off the points that a bounding box hangs on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

import shapes
import world

SMALLEST = 60  # pixels of a picture of 128 x 128 that make an object
BLUR = 3  # pixels about an object in which its colour may fade
BACKDROP = len(world.COLORS)  # the index that pixels of the background get


@dataclass(frozen=True)
class Found:
    """An object in a picture; its box in pixels of a picture of 128 x 128."""

    color: str
    shape: str
    left: float
    top: float
    right: float
    bottom: float
    area: int

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Verdict:
    """How many of a scene's objects have the right colour and shape, and whether all are there and
    stand as they should."""

    objects: int
    colors: int
    shapes: int
    relation: bool


# ---- colours -------------------------------------------------------------------------------------


@lru_cache
def _palette() -> tuple[np.ndarray, np.ndarray]:
    """Every colour an object may show, with the index of its name: plain ones and textures'."""
    rgb, names = [], []
    for i, color in enumerate(world.COLORS.values()):
        rgb += [np.asarray(color, np.float32), world.shade(color)]
        names += [i, i]
    return np.stack(rgb), np.array(names)


def background(picture: np.ndarray) -> str:
    """The background whose colour most of the border has."""
    border = np.concatenate([picture[:2], picture[-2:]]).reshape(-1, 3)
    sides = np.concatenate([picture[:, :2], picture[:, -2:]]).reshape(-1, 3)
    pixels = np.concatenate([border, sides]).astype(np.float32)
    colors = np.array(list(world.BACKGROUNDS.values()), np.float32)
    nearest = ((pixels[:, None] - colors) ** 2).sum(-1).argmin(-1)
    return list(world.BACKGROUNDS)[int(np.bincount(nearest, minlength=len(colors)).argmax())]


def _names(picture: np.ndarray, backdrop: str) -> np.ndarray:
    """The index of each pixel's colour among `world.COLORS`, or BACKDROP: [h, w]."""
    rgb, names = _palette()
    seen = [n for n in range(len(names)) if _visible(int(names[n]), backdrop)]
    colors = np.concatenate([rgb[seen], [world.BACKGROUNDS[backdrop]]])
    indices = np.append(names[seen], BACKDROP)
    pixels = picture.astype(np.float32)
    # |p - c|^2 without the term that all c share.
    score = (colors**2).sum(-1) - 2 * pixels @ colors.T
    return indices[score.argmin(-1)]


def _visible(index: int, backdrop: str) -> bool:
    return list(world.COLORS)[index] not in world.UNSEEN.get(backdrop, ())


# ---- regions -------------------------------------------------------------------------------------


def regions(mask: np.ndarray) -> list[np.ndarray]:
    """The connected regions (8 neighbours) of a mask, each a mask of the same shape."""
    parent: list[int] = []
    runs: list[tuple[int, int, int]] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above: list[int] = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.view(np.int8), [0]])))
        here = []
        for start, end in edges.reshape(-1, 2).tolist():
            i = len(runs)
            runs.append((y, start, end))
            parent.append(i)
            for j in above:
                if runs[j][1] <= end and start <= runs[j][2]:
                    parent[root(j)] = root(i)
            here.append(i)
        above = here
    found: dict[int, np.ndarray] = {}
    for i, (y, start, end) in enumerate(runs):
        region = found.setdefault(root(i), np.zeros_like(mask))
        region[y, start:end] = True
    return list(found.values())


def _around(mask: np.ndarray) -> np.ndarray:
    """A pixel's 3 x 3 neighbours, one on another: [9, h, w]."""
    h, w = mask.shape
    padded = np.pad(mask, 1)
    return np.stack([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)])


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    for _ in range(pixels):
        mask = _around(mask).any(0)
    return mask


def _opened(mask: np.ndarray) -> np.ndarray:
    """Without what is thinner than three pixels: the mixed colours along edges."""
    return _around(_around(mask).all(0)).any(0)


def _filled(region: np.ndarray, names: np.ndarray) -> np.ndarray:
    """With its holes, but for those that show what is around the region: a ring keeps its own."""
    outer, *holes = sorted(regions(~np.pad(region, 1)), key=lambda r: not r[0, 0])
    beyond = names[_rim(region) & outer[1:-1, 1:-1]]
    if not beyond.size:  # it reaches every edge of the picture
        return np.ones_like(region)
    outside = _most(beyond)
    out = region.copy()
    for hole in (h[1:-1, 1:-1] for h in holes):
        if _most(names[_depth(hole)]) != outside:
            out |= hole
    return out


def _rim(mask: np.ndarray) -> np.ndarray:
    """What is around a mask, as near as its colour no longer mixes with it."""
    return _grown(mask, BLUR) & ~_grown(mask, BLUR - 1)


def _depth(mask: np.ndarray) -> np.ndarray:
    """What of a mask lies furthest from its edge."""
    while (inner := _around(mask).all(0)).any():
        mask = inner
    return mask


def _most(names: np.ndarray) -> int:
    return int(np.bincount(names).argmax())


# ---- shapes --------------------------------------------------------------------------------------


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _cover(picture: np.ndarray, color: str, region: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """The share of the object's colour in each pixel, by how near that is to the object's colours
    and to what is around; whole where something else lies on the object: [h, w]."""
    around = _rim(filled)
    if not around.any():  # it reaches every edge of the picture
        return filled.astype(np.float32)
    pixels = picture.astype(np.float32)
    first = np.asarray(world.COLORS[color], np.float32)
    other = world.shade(world.COLORS[color]) - first
    along = np.clip((pixels - first) @ other / (other @ other), 0, 1)[..., None]
    to_object = np.linalg.norm(pixels - first - along * other, axis=-1)
    to_around = np.linalg.norm(pixels - np.median(pixels[around], axis=0), axis=-1)
    share = to_around / (to_around + to_object + 1e-6)
    share[_grown(filled & ~region, 2) & filled] = 1
    return share * _grown(filled, BLUR)


@lru_cache
def _moments() -> dict[str, tuple[float, float, float]]:
    """Of each shape with radius 1 about (0, 0): its area and the middle of its mass, x and y."""
    at = np.arange(-1.5, 1.5, 0.01, dtype=np.float32)
    masks = {name: d(at[None, :], at[:, None], 1.0) < 0 for name, d in shapes.SHAPES.items()}
    return {name: (m.sum() * 1e-4, *_middle(m, at, at)) for name, m in masks.items()}


def _middle(cover: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    return float(cover.sum(0) @ x / cover.sum()), float(cover.sum(1) @ y / cover.sum())


def shape_of(cover: np.ndarray) -> str:
    """The shape that shares the most with a cover [h, w] of 0..1, of what either of them covers."""
    y, x = (np.arange(size, dtype=np.float32) + 0.5 for size in cover.shape)
    middle = _middle(cover, x, y)

    def share(name: str) -> float:
        area, *offset = _moments()[name]
        r = float(np.sqrt(cover.sum() / area))
        left, top = (m - o * r for m, o in zip(middle, offset, strict=True))
        distance = shapes.SHAPES[name]((x - left)[None, :], (y - top)[:, None], r)
        drawn = np.clip(0.5 - distance, 0, 1)
        return float(np.minimum(cover, drawn).sum() / np.maximum(cover, drawn).sum())

    return max(shapes.SHAPES, key=share)


# ---- pictures ------------------------------------------------------------------------------------


def find(picture: np.ndarray) -> list[Found]:
    """The objects in a picture [h, w, 3] uint8 on a plain background, largest first."""
    scale = world.SIZE / picture.shape[0]
    names = _names(picture, background(picture))
    found = []
    for index, color in enumerate(world.COLORS):
        mask = names == index
        for core in regions(_opened(mask)):
            region = core | (_around(core).any(0) & mask)  # points and corners again
            area = int(region.sum() * scale**2)
            if area < SMALLEST:
                continue
            box = (edge * scale for edge in _box(region))
            shape = shape_of(_cover(picture, color, region, _filled(region, names)))
            found.append(Found(color, shape, *box, area))
    return sorted(found, key=lambda f: -f.area)


def stands(relation: str, a: Found, b: Found) -> bool:
    """Whether `a` is, say, on the left of `b`."""
    (ax, ay), (bx, by) = a.middle, b.middle
    if relation == "inside":
        return b.left < ax < b.right and b.top < ay < b.bottom and _width(a) < 0.8 * _width(b)
    across, down = bx - ax, by - ay
    signed = {"left": across, "right": -across, "above": down, "below": -down}[relation]
    return signed > 0 and signed >= max(abs(across), abs(down))


def _width(found: Found) -> float:
    return found.right - found.left


def in_order(relation: str, objects: Sequence[Found]) -> bool:
    """Whether three objects stand in a row from the left, or in a column from the top."""
    step = {"row": "left", "column": "above"}[relation]
    return all(stands(step, a, b) for a, b in itertools.pairwise(objects))


def at_place(place: str, found: Found) -> bool:
    """Whether an object alone is at its place: beyond the middle by 8 pixels, or about there."""
    x, y = (p - world.SIZE / 2 for p in found.middle)
    sides = {"left": -x, "right": x, "top": -y, "bottom": y}
    return sides[place] > 8 if place in sides else max(abs(x), abs(y)) < 16


def judge(picture: np.ndarray, scene: world.Scene) -> Verdict:
    """Compares a picture with what a scene of one to three objects asks for.

    As many objects are looked at as the scene has, the largest; they are matched with the scene's
    so that the most is right.
    """
    wanted = scene.objects
    seen: list[Found | None] = [*find(picture)[: len(wanted)]]
    seen += [None] * (len(wanted) - len(seen))
    return max((_compare(scene, order) for order in itertools.permutations(seen)), key=_right)


def _compare(scene: world.Scene, seen: Sequence[Found | None]) -> Verdict:
    pairs = [(w, f) for w, f in zip(scene.objects, seen, strict=True) if f is not None]
    there = [f for _, f in pairs]
    # Where any two blobs stand says nothing: each must be known by its colour or its shape.
    known = sum(w.color == f.color or w.shape == f.shape for w, f in pairs)
    if known < len(seen):
        relation = False
    elif len(there) == 1:
        relation = at_place(scene.relation, there[0])
    elif len(there) == 2:
        relation = stands(scene.relation, there[0], there[1])
    else:
        relation = in_order(scene.relation, there)
    return Verdict(
        objects=len(seen),
        colors=sum(w.color == f.color for w, f in pairs),
        shapes=sum(w.shape == f.shape for w, f in pairs),
        relation=relation,
    )


def _right(verdict: Verdict) -> tuple[int, bool]:
    return verdict.colors + verdict.shapes, verdict.relation
