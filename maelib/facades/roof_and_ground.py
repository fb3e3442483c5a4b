"""The two ends of a building: doors and shops at its foot; cornice, gable, roof and dormers at its top."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from maelib.facades.brush import ACCENT, BRICK, JOINERY, RGB, STUCCO, TILES, Brush, Label, material, mix, paint
from maelib.facades.windows import Stamp, Window, glass_pictures


@dataclass
class Look:
    """What all parts of one building share."""

    colour: RGB  # of the wall
    trim: RGB
    frame: RGB
    paints: np.ndarray  # of the wall, a material
    pictures: np.ndarray  # behind its panes
    glass: list[np.ndarray]  # palettes of its panes


def door(b: Brush, look: Look, centre: float, width: float, top: float, bottom: float) -> None:
    """A door with fanlight and surround, `top` the storey's upper edge."""
    r = b.rng
    height = min((bottom - top) * 0.8, width * r.uniform(1.5, 2.3))
    x0, x1, y, edge = centre - width / 2, centre + width / 2, bottom - height, width * r.uniform(0.06, 0.2)
    leaf = mix(r.choice(JOINERY[2:] + ACCENT), r.uniform(0.5, 1.0))
    b.rect(x0 - edge, y - edge, x1 + edge, bottom, look.trim, Label.TRIM, 1.05)
    if r.random() < 0.4:
        b.band(x0 - 2 * edge, y - 2.2 * edge, x1 + 2 * edge, edge * 1.2, look.trim)
    b.rect(x0, y, x1, bottom, leaf, Label.DOOR)
    b.rect(x0, y, x1, y + height * 0.22, (54, 58, 62), Label.WINDOW)
    for left in (x0 + width * 0.08, x0 + width * 0.54):
        b.rect(left, y + height * 0.32, left + width * 0.38, y + height * 0.6, leaf, Label.DOOR, 0.75)
        b.rect(left, y + height * 0.66, left + width * 0.38, y + height * 0.93, leaf, Label.DOOR, 0.75)
    b.shade(x0, y, x1, y + height * 0.12, b.depth + 2)
    if r.random() < 0.35:  # arched
        b.shape(x0, y, x1, y + width, lambda u, v: (v < 0) & (u * u + v * v > 1), paint(look.trim, Label.TRIM))


def shops(b: Brush, look: Look, edges: list[float], top: float, bottom: float) -> None:
    """A shop front between each two of `edges`, one of them a door perhaps."""
    r, height, label = b.rng, bottom - top, Label.SHOP
    pillar, common, y = height * r.uniform(0.04, 0.14), r.random() < 0.5, top + height * 0.3
    board = mix(r.choice((*ACCENT, (40, 40, 44), (198, 192, 180))), r.uniform(0.6, 1.1))
    awnings, entrance = r.random() < 0.4, r.randrange(len(edges))
    for bay, (x0, x1) in enumerate(pairwise(edges)):
        x0, x1 = x0 + pillar, x1 - pillar
        if bay == entrance:
            door(b, look, (x0 + x1) / 2, min(x1 - x0, height) * 0.6, top, bottom)
            continue
        b.rect(x0, y, x1, bottom, board, label, 0.8)
        front = Stamp(b, Window(1, 1, 0, board, board, r.choice((1, 2, 3)), ledge=False), x1 - x0, height * 0.6)
        front.put(b, x0, y, r.choice(glass_pictures()[:60]), look.glass[1])
        box = b.box(x0, y, x1, bottom)
        b.canvas[box] = b.canvas[box] & np.uint32(0xFFFFFF) | np.uint32(label << 24)
        for _ in range(r.choice((0, 4))):  # goods and posters
            wide, goods = (x1 - x0) * r.uniform(0.05, 0.16), mix([r.uniform(30, 200) for _ in "rgb"], 1, board, 0.4)
            at = r.uniform(x0, x1 - wide)
            b.rect(at, y + height * r.uniform(0.2, 0.5), at + wide, y + height * 0.6, goods, label)
        b.shade(x0, y, x1, y + height * 0.1, b.depth + 2)
        if not common and r.random() < 0.8:
            _lettering(b, x0, top + height * 0.14, x1, y, mix(board, r.uniform(0.8, 1.3)))
        if awnings and r.random() < 0.7:
            cloth, drop, stripe = r.choice(ACCENT), y + height * r.uniform(0.12, 0.22), height * r.uniform(0.04, 0.08)
            b.rect(x0, y, x1, drop, cloth, label, 1.2)
            if common:
                b.comb((x0, y, x1, drop), 2 * stripe, stripe, (224, 218, 206), label)
            b.rect(x0, drop - stripe / 2, x1, drop, cloth, label, 0.8)
            b.shade(x0, drop, x1, drop + 0.7 * (drop - y), b.depth + 2)
    if common:
        _lettering(b, edges[0], top + height * 0.12, edges[-1], y, board)


def _lettering(b: Brush, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
    """A shop's board and its name, a row of bars of uneven width."""
    r, at, size = b.rng, x0 + (x1 - x0) * b.rng.uniform(0.1, 0.4), (y1 - y0) * 0.45
    ink = (232, 226, 210) if sum(colour) < 360 else (60, 40, 40)
    b.rect(x0, y0, x1, y1, colour, Label.SHOP)
    for k in range(r.randint(4, 10)):
        left, wide = at + k * size, size * r.uniform(0.3, 0.7)
        if left + wide < x1:
            b.rect(left, y0 + size * 0.6, left + wide, y0 + size * 1.6, ink, Label.SHOP)
    b.shade(x0, y1, x1, y1 + 0.15 * (y1 - y0), b.depth + 1)


def cornice(b: Brush, look: Look, x0: float, x1: float, y: float, height: float, frieze: bool) -> None:
    """The moulding under the eaves, on a frieze with brackets perhaps."""
    if frieze:
        b.rect(x0, y, x1, y + height * 1.8, look.trim, Label.TRIM)
        step = height * b.rng.uniform(0.5, 1)
        b.comb((x0, y + height, x1, y + height * 1.5), step, height * 0.3, look.trim, Label.TRIM, 0.55)
        b.shade(x0, y + height * 1.8, x1, y + height * 2, 2)
    b.band(x0 - height / 2, y - height * 0.2, x1 + height / 2, height, look.trim, reach=0.9)


def gable(b: Brush, look: Look, x0: float, x1: float, eaves: float, storey: float) -> None:
    """A sloping or stepped gable with one window in it."""
    r, width = b.rng, x1 - x0
    height, steps, over = width * r.uniform(0.35, 0.7), r.choice((0, 0, 5)), width * 0.03

    def slope(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return abs(u) < (np.ceil((v + 1) / 2 * steps) / steps if steps else (v + 1) / 2)

    b.shape(x0 - over, eaves - height - over, x1 + over, eaves, slope, paint(look.trim, Label.TRIM, 0.8))
    b.shape(x0, eaves - height, x1, eaves + 1, slope, look.paints)
    _dormers(b, look, [(x0 + x1) / 2], eaves - height * 0.2, storey * 0.5, storey * 0.35, "")


def roof(b: Brush, look: Look, edges: list[float], eaves: float, storey: float) -> None:
    """A mansard or pitched roof with chimneys and dormers; `edges` are its ends and those of the bays below."""
    r, x0, x1, pitch = b.rng, edges[0], edges[-1], (edges[-1] - edges[0]) / (len(edges) - 1)
    colour, height = mix(r.choice(TILES), r.uniform(0.75, 1.15)), storey * r.uniform(0.3, 1.1)
    lean, y = height * r.uniform(0.05, 0.9), eaves - height
    for _ in range(r.randint(0, 3)):
        at, wide, tall = r.uniform(x0, x1), pitch * r.uniform(0.12, 0.3), storey * r.uniform(0.1, 0.45)
        b.rect(at, y - tall, at + wide, eaves, r.choice(BRICK + STUCCO[:3]), Label.ROOF, 0.9)
    tiles = material(colour, Label.ROOF, 0.12, r.choice((0.02, 0.1)))
    b.shape(x0, y, x1, eaves, lambda u, v: abs(u) < 1 - lean / (x1 - x0) * (1 - v), tiles)
    b.shade(x0, y + 1, x1, eaves, 1, max(3, round(height / 9)))
    if height > 0.4 * storey and r.random() < 0.75:
        size = height * r.uniform(0.45, 0.7)
        width = min(size * 0.7, pitch * 0.5)
        middles = [(p + q) / 2 for p, q in pairwise(edges)][:: r.choice((1, 1, 2))]
        middles = [at for at in middles if x0 + lean + width < at < x1 - lean - width]
        _dormers(b, look, middles, eaves - height * 0.12, size, width, r.choice(("flat", "gable")))


def _dormers(b: Brush, look: Look, middles: list[float], base: float, height: float, width: float, cap: str) -> None:
    y, trim = base - height, look.trim
    stamp = Stamp(b, Window(1, 1, 0, look.frame, trim, ledge=False), width * 0.66, height * 0.7)
    for at in middles:
        x0, x1 = at - width / 2, at + width / 2
        if cap:
            b.shade(x0 - width * 0.25 * (b.side > 0), y, x1 + width * 0.25 * (b.side < 0), base, b.depth + 1)
            b.rect(x0, y, x1, base, trim, Label.TRIM, 0.96)
            b.rect(x0 - 1, y, x1 + 1, y + height * 0.1, trim, Label.TRIM, 0.55)
        if cap == "gable":
            tip = paint(trim, Label.TRIM, 0.75)
            b.shape(x0 - 1, y - width * 0.4, x1 + 1, y, lambda u, v: abs(u) < (v + 1) / 2, tip)
        stamp.put(b, at - stamp.w / 2, base - height * 0.08 - stamp.h, b.rng.choice(look.pictures), look.glass[0])
