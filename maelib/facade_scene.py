"""Around a building: the street with its neighbours, sky, light, and what stands in front."""

from random import Random

import numpy as np

from maelib.facade_building import ACCENT, STYLES, Building
from maelib.facade_parts import RGB, Brush, Label, paint, palette, tint

CARS = ((190, 192, 194), (225, 225, 224), (52, 54, 58), (34, 36, 42), (120, 30, 30),
        (44, 62, 98), (96, 104, 108), (64, 84, 70))  # fmt: skip
LEAVES = ((62, 78, 42), (78, 92, 52), (48, 62, 40), (94, 98, 58), (58, 70, 52))
WEIGHTS = (34, 18, 14, 12, 14, 8)  # how common the styles are, in the order of STYLES


def clouds(noise: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Smooth field `(H, W)` float32 of mean 0 and deviation about 1, from a coarse grid interpolated linearly."""
    grid = noise.standard_normal((cells[0] + 1, cells[1] + 1), dtype=np.float32)

    def hats(length: int, count: int) -> np.ndarray:
        at = np.linspace(0, count, length, dtype=np.float32)[:, None]
        return np.maximum(0, 1 - abs(at - np.arange(count + 1, dtype=np.float32)))

    return 1.4 * hats(shape[0], cells[0]) @ grid @ hats(shape[1], cells[1]).T


def draw_scene(brush: Brush, noise: np.random.Generator, style: str) -> None:
    """Sky, ground, a main building, its neighbours and what stands before them, over the whole canvas."""
    b, r = brush, brush.rng
    height, width = b.canvas.shape
    unit = b.unit
    tight = r.random() < 0.3  # no sky to be seen
    storeys = r.choices((2, 3, 4, 5, 6, 7, 8), (5, 16, 26, 24, 15, 9, 5))[0]
    ground = height * (r.uniform(1.0, 1.25) if r.random() < 0.3 else r.uniform(0.86, 0.98))
    eaves = -height * r.uniform(0.02, 0.3) if tight else height * r.uniform(0.05, 0.3)
    _sky(b, noise, 0 if tight else max(2, int(eaves + 0.2 * height)))
    storeys = max(1, round(storeys * (ground - eaves) / unit))
    storey = (ground - eaves) / storeys
    gabled = style == "gabled"
    whole = r.random() < (0.0 if gabled else 0.55)
    left = -width * r.uniform(0, 0.12) if whole or r.random() < 0.3 else width * r.uniform(0.02, 0.3)
    right = width * (1 + r.uniform(0, 0.12)) if whole or r.random() < 0.3 else width * r.uniform(0.7, 0.98)
    if gabled:
        right = left + min(right - left, storey * r.uniform(2.2, 4.0))
        eaves = max(eaves, height * 0.12)
    for start, step in ((left, -1), (right, 1)):
        at = start
        while (at > 0) if step < 0 else (at < width):
            if r.random() < 0.15:
                break
            reach = at + step * storey * r.uniform(1.5, 4)
            other = style if r.random() < 0.4 else r.choices(tuple(STYLES), WEIGHTS)[0]
            top = ground - storey * max(1, storeys + r.uniform(-1.6, 0.9))
            box = (min(at, reach), top, max(at, reach), ground + r.uniform(-0.01, 0.01) * unit)
            Building(b, other, box, max(1, round((ground - top) / storey))).draw()
            at = reach
    Building(b, style, (left, eaves, right, ground), storeys).draw()
    if ground < height:
        _street(b, ground)
    if ground < height * 1.06:
        _before(b, noise, min(ground, height))


def _sky(b: Brush, noise: np.random.Generator, depth: int) -> None:
    """Mostly overcast and nearly white, sometimes blue with clouds; down to row `depth`, flat below."""
    r = b.rng
    kind = r.random()
    top = (244, 246, 248) if kind < 0.55 else (206, 212, 218) if kind < 0.7 else (150, 182, 220)
    top = tint(top, r.uniform(0.9, 1.04))
    low = tint(top, 1.0, (240, 243, 246), r.uniform(0.2, 0.7))
    b.canvas[...] = paint(low, Label.SKY)
    if depth:
        rows = b.canvas[:depth]
        amount = 0.5 * np.linspace(0, 1, rows.shape[0], dtype=np.float32)[:, None]
        if kind > 0.6:
            amount = amount + 0.3 * clouds(noise, rows.shape, (3, 5))
        ramp = np.array([paint(tint(top, 1.0, low, t / 31), Label.SKY) for t in range(32)], np.uint32)
        rows[...] = ramp[np.clip(amount * 32, 0, 31).astype(np.int8)]


def _street(b: Brush, ground: float) -> None:
    r = b.rng
    height, width = b.canvas.shape
    grey = r.uniform(70, 150)
    kerb = ground + (height - ground) * r.uniform(0.2, 0.7)
    b.wall(0, ground, width, height, palette((grey, grey * 0.98, grey * 0.95), Label.GROUND, 0.1))
    b.wall(0, kerb, width, height, palette(tint((grey, grey, grey), r.uniform(0.6, 0.9)), Label.GROUND, 0.12))
    b.rect(0, kerb, width, kerb + 1, paint(tint((grey, grey, grey), 1.15), Label.GROUND))
    b.shade(0, ground, width, ground + 0.02 * b.unit, 2)


def _before(b: Brush, noise: np.random.Generator, foot: float) -> None:
    """What stands before the facade in many photos, as part of the scene."""
    r = b.rng
    height, width = b.canvas.shape
    if r.random() < 0.25:
        for _ in range(r.randrange(1, 3)):
            tree(b, noise, r.uniform(0, width), foot, b.unit * r.uniform(0.2, 0.55))
    if r.random() < 0.18:
        for _ in range(r.randrange(1, 4)):
            bush(b, noise, r.uniform(0, width), foot, b.unit * r.uniform(0.1, 0.4))
    if r.random() < 0.4:
        at = r.uniform(-0.2, 0.3) * b.unit
        while at < width and r.random() < 0.8:
            size = b.unit * r.uniform(0.16, 0.28)
            car(b, at, min(height * 0.995, foot + 0.05 * b.unit), size)
            at += size * r.uniform(1.05, 2.5)
    if r.random() < 0.3:
        for _ in range(r.randrange(1, 5)):
            person(b, r.uniform(0, width), foot + b.unit * r.uniform(0.01, 0.03), b.unit * r.uniform(0.06, 0.1))
    if r.random() < 0.15:
        lamp(b, r.uniform(0, width), foot, b.unit * r.uniform(0.35, 0.8))
    if r.random() < 0.2:
        wires(b)


def tree(b: Brush, noise: np.random.Generator, x: float, foot: float, height: float) -> None:
    """Trunk and crown; a bare crown of branches in one of four."""
    r = b.rng
    trunk = max(1, height * 0.045)
    wood = tint((70, 62, 54), r.uniform(0.7, 1.2))
    b.rect(x - trunk / 2, foot - height * 0.55, x + trunk / 2, foot, paint(wood, Label.PLANT))
    if r.random() < 0.25:
        _branches(b, noise, x, foot - height * 0.35, height * 0.65, paint(wood, Label.PLANT))
    else:
        bush(b, noise, x, foot - height * 0.25, height * 0.78, r.uniform(0.6, 1.1))


def bush(b: Brush, noise: np.random.Generator, x: float, foot: float, height: float, aspect: float = 1.2) -> None:
    """A ragged blob of leaves, lit from the brush's side."""
    r = b.rng
    half = height * aspect / 2
    rows, cols = b.slices(x - half, foot - height, x + half, foot)
    box = b.canvas[rows, cols]
    if box.size < 4:
        return
    v = ((np.arange(rows.start, rows.start + box.shape[0]) + 0.5 - foot) * (2 / height) + 1)[:, None].astype(np.float32)
    u = ((np.arange(cols.start, cols.start + box.shape[1]) + 0.5 - x) / half)[None, :].astype(np.float32)
    clumps = clouds(noise, box.shape, (7, 7))
    leaves = clumps + 0.7 * clouds(noise, box.shape, (23, 23))
    inside = u * u + v * v + 0.22 * leaves < 0.8
    level = (15 + 5 * leaves - 6 * v + 5 * b.side * u).clip(0, 31).astype(np.int8)
    colour = tint(r.choice(LEAVES), r.uniform(0.7, 1.2))
    ramp = np.array([paint(tint(colour, 0.35 + 0.045 * t), Label.PLANT) for t in range(32)], np.uint32)
    np.copyto(box, ramp[level], where=inside)


def _branches(b: Brush, noise: np.random.Generator, x: float, foot: float, height: float, value: int) -> None:
    """A bare crown: twigs leave boughs leave the trunk, all of them straight lines."""
    start = np.array([[x, foot]])
    heading, length = np.array([0.0]), height * 0.36
    t = np.linspace(0, 1, max(4, int(length)))[:, None, None]
    for _ in range(4):
        start, heading = np.repeat(start, 3, axis=0), np.repeat(heading, 3)
        heading = heading + noise.normal(0, 0.55, len(heading))
        end = start + length * noise.uniform(0.5, 1.1, (len(start), 1)) * np.stack(
            [np.sin(heading), -np.cos(heading)], 1
        )
        dots = (start + (end - start) * t).reshape(-1, 2).astype(np.int64)
        inside = ((dots >= 0) & (dots < b.canvas.shape[::-1])).all(1)
        b.canvas[dots[inside, 1], dots[inside, 0]] = value
        start, length = end, length * 0.72


def car(b: Brush, x: float, foot: float, length: float) -> None:
    r = b.rng
    colour = tint(r.choice(CARS), r.uniform(0.8, 1.1))
    van = r.random() < 0.2
    height = length * (0.5 if van else 0.32)
    y, wheel = foot - height, length * 0.09
    body, dark = paint(colour, Label.OBJECT), paint((30, 32, 34), Label.OBJECT)
    b.rect(x, foot - wheel, x + length, foot, paint((38, 38, 38), Label.OBJECT))
    b.shape(x, y + height * 0.42, x + length, foot - wheel * 0.6, lambda u, v: u**8 + v**8 < 1, body)
    front, back = (0.04, 0.98) if van else (r.uniform(0.14, 0.24), r.uniform(0.8, 0.95))
    b.shape(x + length * front, y, x + length * back, y + height * 0.6, lambda u, v: abs(u) < 0.86 + v * 0.14, body)
    glass = paint(tint((70, 78, 86), r.uniform(0.6, 1.7)), Label.OBJECT)
    b.shape(x + length * (front + 0.04), y + height * 0.08, x + length * (back - 0.04), y + height * 0.44,
            lambda u, v: (abs(u) < 0.88 + v * 0.12) & (abs(u - 0.1) > 0.05), glass)  # fmt: skip
    b.rect(x, y + height * 0.5, x + length, y + height * 0.53, paint(tint(colour, 1.15), Label.OBJECT))
    for at in (0.2, 0.8):
        middle = x + length * at
        b.shape(
            middle - wheel, foot - 1.9 * wheel, middle + wheel, foot + 0.1 * wheel, lambda u, v: u * u + v * v < 1, dark
        )


def person(b: Brush, x: float, foot: float, height: float) -> None:
    r = b.rng
    coat = paint(tuple(r.uniform(20, 150) for _ in range(3)), Label.OBJECT)
    b.rect(x, foot - height * 0.86, x + height * 0.26, foot - height * 0.42, coat)
    b.rect(x + height * 0.04, foot - height * 0.45, x + height * 0.22, foot, paint((44, 46, 54), Label.OBJECT))
    b.rect(
        x + height * 0.07, foot - height, x + height * 0.19, foot - height * 0.86, paint((168, 132, 112), Label.OBJECT)
    )


def lamp(b: Brush, x: float, foot: float, height: float) -> None:
    r = b.rng
    metal = paint(tint((78, 82, 84), r.uniform(0.5, 1.3)), Label.OBJECT)
    thick, reach = max(1.0, height * 0.018), height * r.choice((-0.2, 0.2, 0.06))
    b.rect(x - thick / 2, foot - height, x + thick / 2, foot, metal)
    b.rect(min(x, x + reach), foot - height, max(x, x + reach), foot - height + thick, metal)
    b.rect(x + reach - 2 * thick, foot - height, x + reach + 2 * thick, foot - height + 2.5 * thick, metal)
    if r.random() < 0.4:
        colour = r.choice(((180, 40, 40), (40, 70, 150), (226, 222, 214)))
        disc = lambda u, v: u * u + v * v < 1  # noqa: E731
        b.shape(
            x - 3 * thick,
            foot - height * 0.6,
            x + 3 * thick,
            foot - height * 0.6 + 6 * thick,
            disc,
            paint(colour, Label.OBJECT),
        )


def wires(b: Brush) -> None:
    r = b.rng
    height, width = b.canvas.shape
    for _ in range(r.randrange(1, 4)):
        left, right, sag = r.uniform(0, 0.7), r.uniform(0, 0.7), r.uniform(0, 0.06)
        x = np.arange(width)
        t = x / width
        y = ((left + (right - left) * t + 4 * sag * t * (1 - t)) * height).astype(np.int64)
        b.canvas[y.clip(0, height - 1), x] = paint((52, 54, 58), Label.OBJECT)


def scaffolding(b: Brush, x0: float, y0: float, x1: float, foot: float) -> None:
    """Poles, decks and braces before a strip of the facade."""
    r = b.rng
    metal, wood = paint((168, 168, 166), Label.OBJECT), paint(tint((150, 118, 80), r.uniform(0.8, 1.2)), Label.OBJECT)
    bay, lift, thick = b.unit * 0.16, b.unit * 0.17, max(1.5, b.unit * 0.012)
    y = foot - lift
    while y > y0:
        b.rect(x0, y, x1, y + 1.6 * thick, wood)
        b.rect(x0, y - lift * 0.45, x1, y - lift * 0.45 + thick * 0.8, metal)
        y -= lift
    x = x0
    while x <= x1:
        b.rect(x, y0, x + thick, foot, metal)
        x += bay
    if r.random() < 0.5:  # a sheet of netting
        net = paint(tint(r.choice(((96, 128, 104), (150, 158, 164))), r.uniform(0.8, 1.1)), Label.OBJECT)
        b.rect(x0, y0 + lift, x0 + (x1 - x0) * r.uniform(0.3, 0.6), foot - lift * r.uniform(0.5, 1.5), net)


def sign(b: Brush, x: float, y: float, width: float, height: float) -> None:
    """A board on a post, with lines of lettering."""
    r = b.rng
    colour: RGB = tint(r.choice((*ACCENT, (214, 180, 60), (230, 228, 222))), r.uniform(0.9, 1.3))
    b.rect(x + width * 0.46, y, x + width * 0.54, b.canvas.shape[0], paint((86, 88, 90), Label.OBJECT))
    b.rect(x, y, x + width, y + height, paint(colour, Label.OBJECT))
    ink = paint((40, 40, 46) if sum(colour) > 420 else (236, 232, 222), Label.OBJECT)
    for k in range(3):
        top, right = y + height * (0.14 + 0.28 * k), x + width * r.uniform(0.5, 0.92)
        b.comb(x + width * 0.1, top, right, top + height * 0.16, width * 0.09, width * 0.05, ink)


def draw_occluder(b: Brush, noise: np.random.Generator) -> None:
    """One tree, lamp post, row of cars, scaffold or sign, on a clear canvas."""
    r = b.rng
    height, width = b.canvas.shape
    unit, foot = min(height, width), height * r.uniform(0.93, 0.99)
    kind = r.randrange(5)
    if kind == 0:
        tree(b, noise, r.uniform(0.1, 0.9) * width, foot, unit * r.uniform(0.5, 0.85))
    elif kind == 1:
        lamp(b, r.uniform(0.1, 0.8) * width, foot, unit * r.uniform(0.6, 0.95))
    elif kind == 2:
        at = r.uniform(0.0, 0.4) * width
        for _ in range(r.randrange(1, 4)):
            size = unit * r.uniform(0.26, 0.42)
            car(b, at, foot, size)
            at += size * 1.15
    elif kind == 3:
        x = r.uniform(0, 0.5) * width
        scaffolding(b, x, height - unit * r.uniform(0.6, 0.9), x + unit * r.uniform(0.35, 0.5), foot)
    else:
        sign(
            b,
            r.uniform(0, 0.7) * width,
            foot - unit * r.uniform(0.4, 0.7),
            unit * r.uniform(0.16, 0.36),
            unit * r.uniform(0.12, 0.3),
        )


def light(r: Random, noise: np.random.Generator, shape: tuple[int, int], strength: float) -> np.ndarray:
    """Light on the picture `(H, W)` float32: gradient, dirt, and, in the sun, the shadow of the houses opposite."""
    v = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    u = np.linspace(0, 1, shape[1], dtype=np.float32)[None, :]
    field = 1.04 - r.uniform(0.0, 0.32) * v + r.uniform(-0.1, 0.1) * (u - 0.5)
    field = field + r.uniform(0.01, 0.05) * clouds(noise, shape, (4, 4))
    field += r.uniform(0.005, 0.03) * clouds(noise, shape, (3, 24))  # streaks below sills
    if strength > 0.5 and r.random() < 0.5:
        slope, height = r.uniform(-1.2, 1.2), r.uniform(0.3, 1.0)
        edge = height + slope * (u - 0.5) + 0.1 * np.sign(np.sin(u * r.uniform(4, 14) + 6 * r.random()))
        field = field * (1 - r.uniform(0.25, 0.5) * ((v - edge) * 60).clip(0, 1))
    return field
