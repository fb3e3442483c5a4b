"""Around a building: the street with its neighbours, the sky, the light, and what stands in front."""

from functools import lru_cache
from random import Random

import numpy as np

from maelib.facades.brush import ACCENT, STYLES, Brush, Label, material, mix, paint
from maelib.facades.building import Building

CARS = ((190, 192, 194), (225, 225, 224), (52, 54, 58), (34, 36, 42), (120, 30, 30), (44, 62, 98), (96, 104, 108))
LEAVES = ((62, 78, 42), (78, 92, 52), (48, 62, 40), (94, 98, 58), (58, 70, 52))
WEIGHTS = (34, 18, 14, 12, 14, 8)  # how common each of STYLES is


@lru_cache(maxsize=256)
def _between(length: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell that each of `length` positions lies in, and how far."""
    at = np.linspace(0, cells, length, dtype=np.float32)
    cell = np.minimum(at.astype(int), cells - 1)
    return cell, at - cell.astype(np.float32)


def clouds(noise: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Smooth field `(H, W)` float32 of mean 0 and deviation about 1: a coarse random grid, interpolated linearly."""
    grid = noise.standard_normal((cells[0] + 1, cells[1] + 1), dtype=np.float32) * np.float32(1.4)
    (row, down), (col, right) = _between(shape[0], cells[0]), _between(shape[1], cells[1])
    lines = grid[row] + (grid[row + 1] - grid[row]) * down[:, None]  # (H, cells + 1)
    return lines[:, col] + (lines[:, col + 1] - lines[:, col]) * right  # (H, W)


def draw_scene(b: Brush, noise: np.random.Generator, style: str) -> None:
    """Sky, neighbours, a main building, street and what stands in it, over the whole canvas."""
    r, (height, width) = b.rng, b.canvas.shape
    tight, gabled = r.random() < 0.3, style == "gabled"  # tight: no sky to be seen
    ground = height * (r.uniform(1.0, 1.25) if r.random() < 0.3 else r.uniform(0.86, 0.98))
    eaves = height * (r.uniform(-0.3, -0.02) if tight else r.uniform(0.05, 0.28) + 0.1 * gabled)
    _sky(b, noise, 2 if tight else int(eaves + 0.2 * height))
    storeys = r.choices((2, 3, 4, 5, 6, 7, 8), (3, 14, 27, 25, 16, 10, 5))[0]
    storeys = max(2, round(storeys * (ground - eaves) / b.unit))
    storey = (ground - eaves) / storeys
    whole = r.random() < 0.45 and not gabled
    left = width * (r.uniform(-0.12, 0) if whole or r.random() < 0.3 else r.uniform(0.02, 0.3))
    right = width * (r.uniform(1, 1.12) if whole or r.random() < 0.3 else r.uniform(0.7, 0.98))
    right = left + min(right - left, storey * r.uniform(2.2, 4.0)) if gabled else right
    for at, step in ((left, -1), (right, 1)):
        while 0 < at < width and r.random() > 0.15:
            other = style if r.random() < 0.4 else r.choices(tuple(STYLES), WEIGHTS)[0]
            floors = max(1, storeys + r.choice((-2, -1, 0, 0, 0, 1)))
            top, reach = ground - storey * floors * r.uniform(0.88, 1.1), at + step * storey * r.uniform(1.5, 4)
            Building(b, other, (min(at, reach), top, max(at, reach), ground), floors).draw()
            at = reach
    Building(b, style, (left, eaves, right, ground), storeys).draw()
    if ground < height:
        grey, kerb = r.uniform(70, 150), ground + (height - ground) * r.uniform(0.2, 0.7)
        b.fill(0, ground, width, height, material((grey, grey, grey * 0.96), Label.GROUND, 0.1))
        b.fill(0, kerb, width, height, material(mix((grey, grey, grey), r.uniform(0.6, 0.9)), Label.GROUND, 0.12))
        b.shade(0, ground, width, ground + 0.02 * b.unit, 2)
    if ground < 1.06 * height:
        _street_life(b, noise, min(ground, height))


def _sky(b: Brush, noise: np.random.Generator, depth: int) -> None:
    """Mostly overcast and nearly white, sometimes blue with clouds; down to row `depth`, flat below."""
    r, kind = b.rng, b.rng.random()
    top = mix(
        (244, 246, 248) if kind < 0.55 else (206, 212, 218) if kind < 0.7 else (158, 184, 214), r.uniform(0.9, 1.04)
    )
    low = mix(top, 1.0, (240, 243, 246), r.uniform(0.2, 0.7))
    b.canvas[...] = paint(low, Label.SKY)
    rows = b.canvas[:depth]
    share = np.linspace(0, 0.5, len(rows), dtype=np.float32)[:, None]
    share = share + (kind > 0.6) * 0.3 * clouds(noise, rows.shape, (3, 5))
    ramp = np.array([paint(mix(top, 1.0, low, t / 31), Label.SKY) for t in range(32)], np.uint32)
    rows[...] = ramp[(share * 32).clip(0, 31).astype(np.int8)]


def _street_life(b: Brush, noise: np.random.Generator, foot: float) -> None:
    """What stands before the facade in many photos, as part of the scene."""
    r, unit, (height, width) = b.rng, b.unit, b.canvas.shape
    for _ in range(r.choice((0, 0, 0, 1, 1, 2))):
        tree(b, noise, r.uniform(0, width), foot, unit * r.uniform(0.2, 0.75))
    for _ in range(r.choice((0, 0, 0, 0, 1, 3))):
        bush(b, noise, r.uniform(0, width), foot, unit * r.uniform(0.08, 0.3))
    if r.random() < 0.5:
        cars(b, r.uniform(-0.2, 0.3) * unit, min(height * 0.995, foot + 0.05 * unit), unit * r.uniform(0.16, 0.28), 8)
    for _ in range(r.choice((0, 0, 1, 4))):  # people
        x, y, tall = r.uniform(0, width), foot + unit * r.uniform(0.01, 0.03), unit * r.uniform(0.06, 0.1)
        coat = mix([r.uniform(20, 150) for _ in "rgb"], 1, (60, 60, 64), 0.4)
        b.rect(x, y - tall * 0.86, x + tall * 0.26, y - tall * 0.42, coat, Label.OBJECT)
        b.rect(x + tall * 0.04, y - tall * 0.45, x + tall * 0.22, y, (44, 46, 54), Label.OBJECT)
        b.rect(x + tall * 0.07, y - tall, x + tall * 0.19, y - tall * 0.86, (168, 132, 112), Label.OBJECT)
    if r.random() < 0.2:
        lamp(b, r.uniform(0, width), foot, unit * r.uniform(0.35, 0.8))
    for _ in range(r.choice((0, 0, 0, 0, 1, 3))):  # wires
        left, right, sag = r.uniform(0, 0.7), r.uniform(0, 0.7), r.uniform(0, 0.06)
        t = np.arange(width) / width
        y = ((left + (right - left) * t + 4 * sag * t * (1 - t)) * height).astype(int).clip(0, height - 1)
        b.canvas[y, np.arange(width)] = paint((52, 54, 58), Label.OBJECT)


def tree(b: Brush, noise: np.random.Generator, x: float, foot: float, height: float) -> None:
    """Trunk and crown; one in three is bare."""
    r, trunk = b.rng, max(1, height * 0.045)
    wood = mix((70, 62, 54), r.uniform(0.7, 1.2))
    b.rect(x - trunk / 2, foot - height * 0.55, x + trunk / 2, foot, wood, Label.PLANT)
    if r.random() < 0.65:
        bush(b, noise, x, foot - height * 0.25, height * 0.78, r.uniform(0.6, 1.1))
        return
    start, heading, length = np.array([[x, foot - height * 0.35]]), np.zeros(1), height * 0.25
    t = np.linspace(0, 1, max(4, int(length)))[:, None, None]
    for _ in range(4):  # twigs leave boughs leave the trunk, all of them straight lines
        start, heading = np.repeat(start, 3, axis=0), np.repeat(heading, 3)
        heading = heading + noise.normal(0, 0.55, len(heading))
        way = np.stack([np.sin(heading), -np.cos(heading)], 1) * length * noise.uniform(0.5, 1.1, (len(start), 1))
        dots = (start + way * t).reshape(-1, 2).astype(int)
        dots = dots[((dots >= 0) & (dots < b.canvas.shape[::-1])).all(1)]
        b.canvas[dots[:, 1], dots[:, 0]] = paint(wood, Label.PLANT)
        start, length = start + way, length * 0.72


def bush(b: Brush, noise: np.random.Generator, x: float, foot: float, height: float, aspect: float = 1.4) -> None:
    """A ragged blob of leaves, lit from the brush's side."""
    half = height * aspect / 2
    rows, cols = b.box(x - half, foot - height, x + half, foot)
    part = b.canvas[rows, cols]
    if part.size < 4:
        return
    v = ((np.arange(rows.start, rows.start + part.shape[0]) + 0.5 - foot) * (2 / height) + 1)[:, None].astype(
        np.float32
    )
    u = ((np.arange(cols.start, cols.start + part.shape[1]) + 0.5 - x) / half)[None, :].astype(np.float32)
    leaves = clouds(noise, part.shape, (7, 7)) + 0.7 * clouds(noise, part.shape, (23, 23))
    colour = mix(b.rng.choice(LEAVES), b.rng.uniform(0.7, 1.2))
    ramp = np.array([paint(colour, Label.PLANT, 0.35 + 0.045 * t) for t in range(32)], np.uint32)
    level = (15 + 5 * leaves - 6 * v + 5 * b.side * u).clip(0, 31).astype(np.int8)
    np.copyto(part, ramp[level], where=u * u + v * v + 0.3 * leaves < 0.75)


def cars(b: Brush, x: float, foot: float, length: float, most: int) -> None:
    """A row of at most `most` parked cars from x on, a van among them now and then."""
    r, label = b.rng, Label.OBJECT
    for _ in range(most):
        colour, van, size = mix(r.choice(CARS), r.uniform(0.8, 1.1)), r.random() < 0.2, length * r.uniform(0.9, 1.1)
        height, wheel = size * (0.5 if van else 0.32), size * 0.09
        front, back = (0.04, 0.98) if van else (r.uniform(0.14, 0.24), r.uniform(0.8, 0.95))
        y, left, right = foot - height, x + size * front, x + size * back
        body, glass = paint(colour, label), paint((70, 78, 86), label, r.uniform(0.6, 1.7))
        b.rect(x, foot - wheel, x + size, foot, (38, 38, 38), label)
        b.shape(x, y + height * 0.42, x + size, foot - wheel * 0.6, lambda u, v: u**8 + v**8 < 1, body)
        b.shape(left, y, right, y + height * 0.6, lambda u, v: abs(u) < 0.86 + v * 0.14, body)
        box = left + size * 0.04, y + height * 0.08, right - size * 0.04, y + height * 0.44
        b.shape(*box, lambda u, v: (abs(u) < 0.88 + v * 0.12) & (abs(u - 0.1) > 0.05), glass)
        for at in (x + size * 0.2 - wheel, x + size * 0.8 - wheel):
            tyre = at, foot - 1.9 * wheel, at + 2 * wheel, foot + 0.1 * wheel
            b.shape(*tyre, lambda u, v: u * u + v * v < 1, paint((30, 32, 34), label))
        x += size * r.uniform(1.05, 2)
        if x > b.canvas.shape[1]:
            break


def lamp(b: Brush, x: float, foot: float, height: float) -> None:
    """A lamp post, some with a road sign on it."""
    r, thick, top = b.rng, max(1.0, height * 0.02), foot - height
    metal, reach = mix((78, 82, 84), r.uniform(0.5, 1.3)), height * r.choice((-0.2, 0.2, 0.06))
    b.rect(x - thick / 2, top, x + thick / 2, foot, metal, Label.OBJECT)
    b.rect(min(x, x + reach), top, max(x, x + reach), top + thick, metal, Label.OBJECT)
    b.rect(x + reach - 2 * thick, top, x + reach + 2 * thick, top + 2.5 * thick, metal, Label.OBJECT)
    if r.random() < 0.4:
        disc, y = paint(r.choice(((180, 40, 40), (40, 70, 150), (226, 222, 214))), Label.OBJECT), foot - height * 0.6
        b.shape(x - 3 * thick, y, x + 3 * thick, y + 6 * thick, lambda u, v: u * u + v * v < 1, disc)


def scaffolding(b: Brush, x0: float, y0: float, x1: float, foot: float) -> None:
    """Poles, decks and rails before a strip of the facade, half of the time with a sheet of netting."""
    r, unit, label = b.rng, b.unit, Label.OBJECT
    wood, lift, thick = mix((150, 118, 80), r.uniform(0.8, 1.2)), unit * 0.17, max(1.5, unit * 0.012)
    for y in np.arange(foot - lift, y0, -lift):
        b.rect(x0, y, x1, y + 1.6 * thick, wood, label)
        b.rect(x0, y - lift * 0.45, x1, y - lift * 0.45 + thick * 0.8, (168, 168, 166), label)
    for x in np.linspace(x0, x1, 4):
        b.rect(x, y0, x + thick, foot, (168, 168, 166), label)
    if r.random() < 0.5:
        net, right = mix(r.choice(((96, 128, 104), (150, 158, 164))), r.uniform(0.8, 1.1)), r.uniform(0.3, 0.6)
        b.rect(x0, y0 + lift, x0 + (x1 - x0) * right, foot - lift * r.uniform(0.5, 1.5), net, label)


def sign(b: Brush, x: float, y: float, width: float, height: float) -> None:
    """A board on a post, with lines of lettering."""
    r, label = b.rng, Label.OBJECT
    colour = mix(r.choice((*ACCENT, (214, 180, 60), (230, 228, 222))), r.uniform(0.9, 1.3))
    ink = (40, 40, 46) if sum(colour) > 420 else (236, 232, 222)
    b.rect(x + width * 0.46, y, x + width * 0.54, b.canvas.shape[0], (86, 88, 90), label)
    b.rect(x, y, x + width, y + height, colour, label)
    for top in (y + height * 0.14, y + height * 0.42, y + height * 0.7):
        line = x + width * 0.1, top, x + width * r.uniform(0.5, 0.92), top + height * 0.16
        b.comb(line, width * 0.09, width * 0.05, ink, label)


def draw_occluder(b: Brush, noise: np.random.Generator) -> None:
    """One tree, lamp post, row of cars, scaffold or sign, on a clear canvas."""
    r, (height, width) = b.rng, b.canvas.shape
    unit, foot, kind = min(height, width), height * r.uniform(0.93, 0.99), r.randrange(5)
    if kind == 0:
        tree(b, noise, r.uniform(0.1, 0.9) * width, foot, unit * r.uniform(0.5, 0.85))
    elif kind == 1:
        lamp(b, r.uniform(0.1, 0.8) * width, foot, unit * r.uniform(0.6, 0.95))
    elif kind == 2:
        cars(b, r.uniform(0.0, 0.4) * width, foot, unit * r.uniform(0.26, 0.42), r.randint(1, 3))
    elif kind == 3:
        x = r.uniform(0, 0.5) * width
        scaffolding(b, x, height - unit * r.uniform(0.6, 0.9), x + unit * r.uniform(0.35, 0.5), foot)
    else:
        x, y = r.uniform(0, 0.7) * width, foot - unit * r.uniform(0.4, 0.7)
        sign(b, x, y, unit * r.uniform(0.16, 0.36), unit * r.uniform(0.12, 0.3))


def light(r: Random, noise: np.random.Generator, shape: tuple[int, int], sun: float) -> np.ndarray:
    """Light on what is built `(H, W)` float32: gradient, dirt, and, in the sun, the shadow of the houses opposite."""
    v = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    u = np.linspace(0, 1, shape[1], dtype=np.float32)[None, :]
    field = 1.04 - r.uniform(0.0, 0.32) * v + r.uniform(-0.1, 0.1) * (u - 0.5)
    field = field + r.uniform(0.01, 0.05) * clouds(noise, shape, (4, 4))
    field += r.uniform(0.005, 0.03) * clouds(noise, shape, (3, 24))  # streaks of dirt run down
    if sun > 0.7 and r.random() < 0.5:
        edge = r.uniform(0.3, 1.0) + r.uniform(-1.2, 1.2) * (u - 0.5)
        edge = edge + 0.1 * np.sign(np.sin(u * r.uniform(4, 14) + 6 * r.random()))
        field *= 1 - r.uniform(0.25, 0.5) * ((v - edge) * 60).clip(0, 1)
    return field
