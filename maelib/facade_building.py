"""One building: style, storeys and bays, windows and balconies, ground floor, cornice, roof."""

from random import Random
from typing import NamedTuple

import numpy as np

from maelib.facade_parts import RGB, Brush, Label, Stamp, Window, glass_pictures, paint, palette, tint

STUCCO = ((196, 172, 142), (170, 153, 129), (152, 140, 121), (204, 197, 180), (186, 142, 94), (170, 177, 166),
          (214, 184, 118), (202, 160, 138), (176, 186, 158), (150, 166, 182), (222, 210, 182),
          (188, 126, 88))  # fmt: skip
BRICK = ((142, 84, 66), (122, 72, 58), (160, 108, 84), (152, 122, 98), (108, 66, 58))
STONE = ((152, 147, 139), (124, 121, 113), (144, 131, 108), (110, 102, 90), (180, 169, 148), (132, 112, 92))
CONCRETE = ((160, 163, 158), (134, 134, 131), (192, 189, 182), (104, 112, 116), (176, 168, 152), *STUCCO[:5])
JOINERY = ((226, 224, 216), (210, 205, 192), (92, 66, 50), (60, 48, 42), (52, 54, 58), (120, 84, 58), (70, 84, 72))
ACCENT = ((70, 92, 76), (104, 60, 50), (92, 98, 106), (60, 76, 96), (130, 44, 42), (118, 92, 66), (150, 150, 142))
ROOFS = ((122, 74, 58), (140, 90, 68), (84, 84, 88), (66, 68, 74), (96, 84, 76), (110, 112, 116))


class Style(NamedTuple):
    """How often and how large: pairs are ranges, single numbers probabilities."""

    walls: tuple[RGB, ...]
    masonry: float  # contrast between bricks or blocks
    bay: tuple[float, float]  # in storey heights
    width: tuple[float, float]  # of a window, in bays
    height: tuple[float, float]  # of a window, in storeys
    arch: float
    hood: float
    shutters: float
    balcony: float
    course: float
    pilaster: float
    shop: float
    roof: float


STYLES = {
    "classical": Style(STUCCO, 0.0, (0.62, 1.1), (0.36, 0.52), (0.5, 0.68), 0.22, 0.65, 0.05, 0.22, 0.7, 0.3, 0.4, 0.6),
    "plain": Style(STUCCO, 0.0, (0.75, 1.3), (0.3, 0.46), (0.44, 0.62), 0.08, 0.08, 0.5, 0.22, 0.3, 0.04, 0.35, 0.8),
    "brick": Style(BRICK, 0.16, (0.6, 1.1), (0.36, 0.56), (0.48, 0.66), 0.35, 0.35, 0.08, 0.15, 0.6, 0.25, 0.4, 0.5),
    "stone": Style(STONE, 0.09, (0.6, 1.1), (0.36, 0.56), (0.5, 0.7), 0.45, 0.5, 0.04, 0.25, 0.75, 0.5, 0.4, 0.45),
    "modern": Style(CONCRETE, 0.02, (0.7, 1.5), (0.5, 0.86), (0.42, 0.62), 0.0, 0.0, 0.08, 0.35, 0.3, 0.2, 0.5, 0.2),
    "gabled": Style(STUCCO, 0.0, (0.6, 1.0), (0.36, 0.55), (0.48, 0.64), 0.2, 0.3, 0.35, 0.15, 0.45, 0.05, 0.5, 1.0),
}  # fmt: skip


def rhythm(r: Random, count: int) -> list[int]:
    """Which of two kinds each bay is: all alike, the middle or the ends apart, alternating, or mirrored at random."""
    plan, middle = r.random(), (count - 1) / 2
    if plan < 0.35:
        return [0] * count
    if plan < 0.55:
        return [int(abs(i - middle) < 1) for i in range(count)]
    if plan < 0.7:
        return [int(i in (0, count - 1)) for i in range(count)]
    if plan < 0.8:
        return [i % 2 for i in range(count)]
    half = [int(r.random() < 0.35) for _ in range(count)]
    return [half[min(i, count - 1 - i)] for i in range(count)]


class Building:
    """A facade from x0 to x1 and from its eaves down to the ground, all in canvas pixels."""

    def __init__(self, brush: Brush, style: str, box: tuple[float, float, float, float], storeys: int):
        self.b, self.r, self.style = brush, brush.rng, STYLES[style]
        self.x0, self.eaves, self.x1, self.ground = box
        r, s = self.r, self.style
        self.gabled = style == "gabled"
        self.colour = tint(r.choice(s.walls), r.uniform(0.84, 1.14), (158, 150, 138), r.uniform(0, 0.3))
        same = r.random()  # mouldings are painted with the wall, or apart from it
        pale = r.choice(((226, 218, 200), (206, 198, 184), (178, 170, 156)))
        self.trim = (
            tint(self.colour, r.uniform(0.9, 1.14))
            if same < 0.5
            else tint(pale, r.uniform(0.85, 1.05), self.colour, 0.3)
        )
        self.accent = tint(r.choice(ACCENT), r.uniform(0.8, 1.2))
        self.frame = tint(r.choice(JOINERY[:2] if r.random() < 0.55 else JOINERY), r.uniform(0.9, 1.05))
        joint = tint(self.colour, 1.0, (176, 168, 156), 0.6) if s.masonry > 0.1 else tint(self.colour, 0.8)
        self.paints = palette(
            self.colour, Label.WALL, r.uniform(0.04, 0.1), s.masonry, joint if s.masonry > 0.05 else None
        )
        first = r.uniform(1.0, 1.4)
        heights = [first] + [1.0] * (storeys - 1)
        if storeys > 3 and r.random() < 0.5:
            heights[-1] = r.uniform(0.65, 0.9)
        if storeys > 2 and r.random() < 0.4:
            heights[1] = r.uniform(1.05, 1.25)
        step = (self.ground - self.eaves) / sum(heights)
        self.floors = [self.ground - step * sum(heights[: i + 1]) for i in range(storeys)]  # tops, ground first
        self.storey = step
        self._bays(step)
        start, spread = r.uniform(0, 0.7), r.uniform(0.15, 0.6)
        pictures = glass_pictures()
        low, high = int(start * len(pictures)), int(min(1.0, start + spread) * len(pictures))
        self.pictures = pictures[low:high]
        cool = r.uniform(0.72, 1.12)
        codes = np.arange(256) * cool + 6
        self.glasses = [self._glass(codes, mix) for mix in ((0.97, 1.0, 1.04), (1, 0.98, 0.93), (0.9, 0.98, 1.1))]
        self.lit = self._glass(np.minimum(255, codes * 0.8 + 90), (1.05, 0.9, 0.58))

    def _glass(self, levels: np.ndarray, mix: RGB) -> np.ndarray:
        red, green, blue = (np.minimum(255, levels * m).astype(np.uint32) for m in mix)
        return red | green << 8 | blue << 16 | np.uint32(Label.WINDOW << 24)

    def _bays(self, step: float) -> None:
        r = self.r
        pitch = step * r.uniform(*self.style.bay)
        margin = r.uniform(0.0, 0.5) * pitch * 0.5
        count = max(1, round((self.x1 - self.x0 - 2 * margin) / pitch))
        self.kinds = rhythm(r, count)
        wide, loose = r.uniform(1.0, 1.8), r.uniform(0.0, 0.06) * (r.random() < 0.6)
        shares = [(wide if kind else 1.0) * r.uniform(1 - loose, 1 + loose) for kind in self.kinds]
        scale = (self.x1 - self.x0 - 2 * margin) / sum(shares)
        self.edges = [self.x0 + margin]
        for share in shares:
            self.edges.append(self.edges[-1] + share * scale)
        self.pitch, self.wide = scale, wide

    def draw(self) -> None:
        b, r = self.b, self.r
        self._roof()
        b.wall(self.x0, self.eaves, self.x1, self.ground, self.paints)
        self._relief()
        shops = r.random() < self.style.shop
        self._families()
        top = len(self.floors) - 1
        long_balcony = r.randrange(1, top + 1) if top > 0 and r.random() < self.style.balcony * 0.6 else -1
        for level in range(top + 1):
            if level == 0 and shops:
                self._shops()
            else:
                self._storey(level, door=level == 0)
            if level == long_balcony:
                self.balcony(self.edges[0], self.edges[-1], self._bottom(level), self.storey * 0.3, self.rail)
        self._cornice()
        if r.random() < 0.3:  # rain pipe
            at, thick = r.choice(self.edges), max(1, 0.006 * b.unit)
            b.rect(at, self.eaves, at + thick, self.ground, paint(tint(self.colour, r.uniform(0.45, 0.8)), Label.TRIM))
            b.shade(at + thick, self.eaves, at + 2 * thick, self.ground, 1)

    def _bottom(self, level: int) -> float:
        return self.floors[level - 1] if level else self.ground

    def _relief(self) -> None:
        """What stands out of the wall or is cut into it, behind the windows."""
        b, r, s = self.b, self.r, self.style
        if r.random() < 0.5:  # another material below
            below = tint(self.colour, r.uniform(0.66, 1.04), (128, 122, 114), r.uniform(0.0, 0.7))
            level = 1 if len(self.floors) > 4 and r.random() < 0.3 else 0
            b.wall(
                self.x0, self.floors[level], self.x1, self.ground, palette(below, Label.WALL, 0.08, r.choice((0, 0.08)))
            )
        if r.random() < s.course:  # grooved ground floor, sometimes the whole wall
            level = -1 if r.random() < 0.12 else 0
            b.shade(self.x0, self.floors[level], self.x1, self.ground, 1.5, max(3, round(self.storey / 8)))
        if s.roof < 1 and r.random() < 0.3 and len(self.kinds) > 3:  # projecting middle or ends
            n = len(self.kinds)
            spans = ((0, 1), (n - 1, n)) if r.random() < 0.4 else ((n // 2 - 1, n - n // 2 + 1),)
            lighter = palette(tint(self.colour, r.uniform(0.9, 1.12)), Label.WALL, 0.06, s.masonry)
            foot = self.floors[0] if r.random() < 0.5 else self.ground
            for i, j in spans:
                left, right = self.edges[i], self.edges[j]
                b.wall(left, self.eaves, right, foot, lighter)
                away, reach = (right, self.pitch * 0.12) if b.side < 0 else (left, -self.pitch * 0.12)
                b.shade(min(away, away + reach), self.eaves, max(away, away + reach), foot, b.depth + 1)
        if r.random() < s.pilaster:
            wide, tone = self.pitch * r.uniform(0.08, 0.2), tint(self.trim, r.uniform(0.9, 1.1))
            lowest = self.floors[min(len(self.floors) - 1, r.randrange(2))]
            for at in self.edges[:: r.choice((1, 1, 2))]:
                b.rect(at - wide / 2, self.eaves, at + wide / 2, lowest, paint(tone, Label.TRIM))
                edge = at + wide / 2 if b.side < 0 else at - wide / 2 - 1
                b.shade(edge, self.eaves, edge + max(1, wide * 0.2), lowest, b.depth + 1.5)
        elif r.random() < s.course * 0.5:  # quoins
            size, tone = self.pitch * 0.14, paint(tint(self.trim, 1.04), Label.TRIM)
            for k in range(int((self.ground - self.eaves) / size / 1.2)):
                y, reach = self.eaves + k * size * 1.2, size * (1 + k % 2 * 0.6)
                b.rect(self.x0, y, self.x0 + reach, y + size, tone)
                b.rect(self.x1 - reach, y, self.x1, y + size, tone)
        if r.random() < 0.6:
            b.rect(
                self.x0,
                self.ground - self.storey * 0.12,
                self.x1,
                self.ground,
                paint(tint(self.colour, 0.62), Label.WALL),
            )
        share = r.choice((0.0, 0.3, 1.0)) if r.random() < s.course + 0.2 else 0.0
        thick = self.storey * r.uniform(0.03, 0.1)
        for level in range(len(self.floors) - 1):  # string courses
            if level == 0 or r.random() < share:
                b.band(self.x0, self.floors[level] - thick / 2, self.x1, thick, self.trim)

    def _families(self) -> None:
        """A window family for every storey and kind of bay; storeys often share theirs."""
        r, s = self.r, self.style
        self.rail = tint(r.choice(((40, 40, 44), (70, 72, 74), self.trim)), 1.0)
        self.rail_kind = r.choice(("rail", "rail", "stone", "solid"))
        fresh = r.uniform(0.1, 0.7)
        self.families: list[tuple[Window, Window]] = []
        base = self._family()
        for level in range(len(self.floors)):
            if level == 1 or (level > 1 and r.random() < fresh):
                base = self._family()
            wide = Window(**vars(base))
            if r.random() < 0.6:
                wide.lights, wide.posts = base.lights + r.choice((1, 2)), r.choice((0, 1, 2))
                wide.width = min(0.8, base.width * r.uniform(1.0, 1.4))
            if r.random() < 0.3:
                wide.hood = r.choice(("triangle", "curve", "flat"))
            if r.random() < s.balcony:
                wide.balcony = self.rail_kind
            self.families.append((base, wide))
        self.stamps: dict[tuple[int, int, int], Stamp] = {}

    def _family(self) -> Window:
        r, s = self.r, self.style
        width, height = r.uniform(*s.width), r.uniform(*s.height)
        tall = height / (width * self.pitch / self.storey)
        lights = 1 if r.random() < 0.12 else (2 if tall > 1.2 else r.choice((2, 3, 3, 4)))
        window = Window(width, height, r.uniform(0.12, 0.3), self.frame, self.trim, lights=lights)
        window.sill = min(window.sill, 0.94 - height)
        if r.random() < s.arch:
            window.arch = r.choice((0.5, 0.5, 0.18))
        window.transom = r.uniform(0.24, 0.4) if tall > 1.3 and r.random() < 0.65 else 0.0
        window.bars = r.choice((0, 0, 0, 1, 2, 3)) if r.random() < 0.6 else 0
        window.surround = r.uniform(0.08, 0.24) if r.random() < 0.35 + s.hood else 0.0
        if r.random() < s.hood:
            window.hood = r.choice(("flat", "flat", "triangle", "curve", "key", "key"))
        window.ledge = r.random() < 0.8
        window.apron = window.sill > 0.16 and r.random() < s.hood * 0.5
        if r.random() < s.shutters and width < 0.5:
            window.shutters = self.accent
        if r.random() < s.balcony * 0.4:
            window.balcony = self.rail_kind
        return window

    def _storey(self, level: int, door: bool) -> None:
        r, b = self.r, self.b
        top, bottom = self.floors[level], self._bottom(level)
        entrance = r.randrange(len(self.kinds)) if door and r.random() < 0.85 else -1
        shut = r.choice((0.0, 0.1, 0.4)) if r.random() < 0.6 else 0.0
        skip = 0.02 if r.random() < 0.7 else 0.12
        for bay, kind in enumerate(self.kinds):
            left, right = self.edges[bay], self.edges[bay + 1]
            if right < 0 or left > b.canvas.shape[1] or bottom < 0:
                continue
            if bay == entrance:
                self._door((left + right) / 2, bottom, min(right - left, self.storey) * r.uniform(0.4, 0.7), top)
                continue
            if r.random() < skip:
                continue
            family = self.families[level][kind]
            width, height = (right - left) * family.width, (bottom - top) * family.height
            key = (id(family), int(width * 0.7), int(height))
            if key not in self.stamps:
                self.stamps[key] = Stamp(b, family, width, height)
            stamp = self.stamps[key]
            x, y = (left + right - stamp.w) / 2, bottom - (bottom - top) * family.sill - stamp.h
            if y > b.canvas.shape[0]:
                continue
            picture = r.choice(self.pictures)
            paints = self.lit if r.random() < 0.015 else r.choice(self.glasses)
            stamp.put(b, x, y, picture if r.random() < 0.5 else picture[:, ::-1], paints)
            if family.shutters:
                self._shutters(family, stamp, x, y, r.random() < shut)
            elif r.random() < shut * 0.5:  # outer blind, part of the way down
                b.rect(x, y, x + stamp.w, y + stamp.h * r.uniform(0.3, 1), paint(tint(self.trim, 0.92), Label.SHUTTER))
            if family.balcony != "none" and level:
                reach = stamp.w * 0.3
                self.balcony(
                    x - reach,
                    x + stamp.w + reach,
                    y + stamp.h + 0.06 * self.storey,
                    self.storey * 0.3,
                    self.rail,
                    family.balcony,
                )

    def _shutters(self, family: Window, stamp: Stamp, x: float, y: float, closed: bool) -> None:
        b, half = self.b, stamp.w * 0.5
        dark = paint(tint(family.shutters, 0.8), Label.SHUTTER)
        for left in (x, x + half) if closed else (x - half - 1, x + stamp.w + 1):
            b.rect(left, y, left + half - 1, y + stamp.h, paint(family.shutters, Label.SHUTTER))
            b.shade(left + 1, y + 1, left + half - 2, y + stamp.h - 1, 1, 3)
            b.rect(left, y + stamp.h * 0.48, left + half - 1, y + stamp.h * 0.52, dark)
            b.shade(left, y + stamp.h, left + half, y + stamp.h + 1, b.depth)

    def balcony(self, x0: float, x1: float, base: float, height: float, colour: RGB, kind: str = "") -> None:
        """A slab at `base` with a railing of `height` on it, and its shadow."""
        b, kind = self.b, kind or self.rail_kind
        slab, body = max(1, height * 0.16), paint(colour, Label.BALCONY)
        b.shade(x0, base + slab, x1, base + slab + height * 0.5, b.depth + 1)
        if kind == "rail":
            b.comb(x0, base - height, x1, base, max(2, height * 0.12), 1, body)
            b.rect(x0, base - height, x1, base - height + max(1, height * 0.06), body)
        elif kind == "stone":
            b.rect(x0, base - height * 0.85, x1, base, paint(tint(self.trim, 0.66), Label.BALCONY))
            b.comb(
                x0,
                base - height * 0.85,
                x1,
                base,
                max(3, height * 0.25),
                height * 0.14,
                paint(self.trim, Label.BALCONY),
            )
            b.rect(x0, base - height, x1, base - height * 0.82, paint(tint(self.trim, 1.08), Label.BALCONY))
        else:
            front = tint(self.accent, 1.0, self.trim, 0.75)
            b.rect(x0, base - height, x1, base, paint(front, Label.BALCONY))
            b.rect(x0, base - height, x1, base - height * 0.9, paint(tint(front, 1.15), Label.BALCONY))
        b.rect(x0, base, x1, base + slab, paint(tint(self.trim, 1.05), Label.BALCONY))
        b.rect(x0, base + slab * 0.7, x1, base + slab, paint(tint(self.trim, 0.6), Label.BALCONY))

    def _door(self, centre: float, bottom: float, width: float, top: float) -> None:
        r, b = self.r, self.b
        height = min((bottom - top) * 0.85, width * r.uniform(1.5, 2.3))
        x0, x1, y, edge = centre - width / 2, centre + width / 2, bottom - height, width * r.uniform(0.06, 0.2)
        leaf = tint(r.choice(JOINERY[2:] + ACCENT), r.uniform(0.6, 1.1))
        b.rect(x0 - edge, y - edge, x1 + edge, bottom, paint(tint(self.trim, 1.05), Label.TRIM))
        if r.random() < 0.4:
            b.band(x0 - 2 * edge, y - 2.2 * edge, x1 + 2 * edge, edge * 1.2, self.trim)
        b.rect(x0, y, x1, bottom, paint(leaf, Label.DOOR))
        b.rect(x0, y, x1, y + height * 0.22, paint((54, 58, 62), Label.WINDOW))
        for left in (x0 + width * 0.08, x0 + width * 0.54):
            b.rect(left, y + height * 0.32, left + width * 0.38, y + height * 0.6, paint(tint(leaf, 0.78), Label.DOOR))
            b.rect(left, y + height * 0.66, left + width * 0.38, y + height * 0.93, paint(tint(leaf, 0.78), Label.DOOR))
        b.rect(centre - 0.5, y + height * 0.22, centre + 0.5, bottom, paint(tint(leaf, 0.45), Label.DOOR))
        b.shade(x0, y, x1, y + height * 0.12, b.depth + 2)
        if r.random() < 0.3:
            radius = width / 2
            b.shape(
                x0 - edge,
                y - edge,
                x1 + edge,
                y + 2 * radius,
                lambda u, v: (v < 0) & (u * u + v * v > 1.0),
                self.paints,
            )

    def _shops(self) -> None:
        r, b = self.r, self.b
        top, bottom = self.floors[0], self.ground
        height = bottom - top
        fascia = tint(r.choice((*ACCENT, (40, 40, 44), (198, 192, 180))), r.uniform(0.6, 1.1))
        common, pillar = r.random() < 0.5, self.pitch * r.uniform(0.04, 0.16)
        awnings = r.random() < 0.4
        door = r.randrange(len(self.kinds))
        for bay in range(len(self.kinds)):
            x0, x1 = self.edges[bay] + pillar, self.edges[bay + 1] - pillar
            if x1 < 0 or x0 > b.canvas.shape[1]:
                continue
            if bay == door and r.random() < 0.6:
                self._door((x0 + x1) / 2, bottom, min(x1 - x0, self.storey) * 0.6, top)
                continue
            y0, y1 = top + height * 0.3, bottom - height * r.uniform(0.04, 0.2)
            b.rect(x0, y0, x1, bottom, paint(tint(fascia, 0.8), Label.SHOP))
            picture = r.choice(glass_pictures()[:60])
            rows, cols = b.slices(x0 + 1, y0 + 1, x1 - 1, y1)
            box = b.canvas[rows, cols]
            grid = (
                np.arange(box.shape[0])[:, None] * 24 // max(1, box.shape[0]),
                np.arange(box.shape[1]) * 16 // max(1, box.shape[1]),
            )
            box[...] = (self.glasses[1][(picture[grid] * 0.62).astype(np.uint8)] & np.uint32(0xFFFFFF)) | np.uint32(
                Label.SHOP << 24
            )
            panes = r.choice((1, 2, 3))
            for k in range(1, panes):
                at = x0 + (x1 - x0) * k / panes
                b.rect(at, y0, at + max(1, pillar * 0.2), bottom, paint(fascia, Label.SHOP))
            if r.random() < 0.5:  # goods, posters
                for _ in range(4):
                    at, low = r.uniform(x0, x1), r.uniform(0.4, 0.9)
                    side = (x1 - x0) * r.uniform(0.05, 0.16)
                    colour = tuple(r.uniform(50, 230) for _ in range(3))
                    b.rect(at, y0 + (y1 - y0) * low, min(x1, at + side), y1, paint(colour, Label.SHOP))
            b.shade(x0, y0, x1, y0 + height * 0.1, b.depth + 2)
            sign = r.random()
            if not common and sign < 0.8:
                self._sign(x0, top + height * 0.14, x1, y0, tint(fascia, r.uniform(0.8, 1.3)))
            if awnings and r.random() < 0.7:
                self._awning(x0, y0 - height * 0.02, x1, height * r.uniform(0.12, 0.22), fascia)
        if common:
            self._sign(self.edges[0], top + height * 0.12, self.edges[-1], top + height * 0.3, fascia)

    def _sign(self, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
        """A shop's board with lettering: a row of bars of uneven width."""
        r, b = self.r, self.b
        b.rect(x0, y0, x1, y1, paint(colour, Label.SHOP))
        ink = paint((232, 226, 210) if sum(colour) < 360 else (60, 40, 40), Label.SHOP)
        at, size = x0 + (x1 - x0) * r.uniform(0.1, 0.4), (y1 - y0) * 0.45
        for _ in range(r.randrange(4, 11)):
            if at + size > x1:
                break
            b.rect(at, y0 + size * 0.6, at + size * r.uniform(0.3, 0.7), y0 + size * 1.6, ink)
            at += size
        b.shade(x0, y1, x1, y1 + 0.15 * (y1 - y0), b.depth + 1)

    def _awning(self, x0: float, y: float, x1: float, height: float, colour: RGB) -> None:
        b, cloth = self.b, self.r.choice(ACCENT)
        b.rect(x0, y, x1, y + height, paint(tint(cloth, 1.2), Label.SHOP))
        if self.r.random() < 0.5:
            b.comb(x0, y, x1, y + height, self.storey * 0.12, self.storey * 0.06, paint((224, 218, 206), Label.SHOP))
        b.rect(x0, y + height * 0.85, x1, y + height, paint(tint(colour, 0.9), Label.SHOP))
        b.shade(x0, y + height, x1, y + height * 1.8, b.depth + 2)

    def _cornice(self) -> None:
        r, b = self.r, self.b
        if self.gabled:
            return
        height = self.storey * (r.uniform(0.06, 0.24) if self.style.course > 0.35 else r.uniform(0.03, 0.08))
        over = height * 0.5
        y = self.eaves
        if r.random() < self.style.course:  # frieze: a plain band with panels, or dentils
            b.rect(self.x0, y, self.x1, y + height * 1.8, paint(self.trim, Label.TRIM))
            if r.random() < 0.6:
                b.comb(self.x0, y + height, self.x1, y + height * 1.5, height * r.uniform(0.5, 1), height * 0.3,
                       paint(tint(self.trim, 0.6), Label.TRIM))  # fmt: skip
            b.shade(self.x0, y + height * 1.8, self.x1, y + height * 2, 2)
        b.band(self.x0 - over, y - height * 0.2, self.x1 + over, height, self.trim, reach=0.9)

    def _roof(self) -> None:
        """Mansard or pitched roof with dormers and chimneys; a gable in the gabled style; or nothing (a parapet)."""
        r, b = self.r, self.b
        if r.random() > self.style.roof:
            return
        colour = tint(r.choice(ROOFS), r.uniform(0.75, 1.15))
        paints = palette(colour, Label.ROOF, 0.12, r.choice((0.02, 0.1)))
        width = self.x1 - self.x0
        if self.gabled:
            height = width * r.uniform(0.35, 0.7)
            y, steps = self.eaves - height, r.choice((0, 0, 5))
            rake = paint(tint(self.trim, 0.8), Label.TRIM)

            def slope(u, v):
                return abs(u) < ((np.ceil((v + 1) / 2 * steps) / steps) if steps else (v + 1) / 2)

            b.shape(self.x0 - width * 0.03, y - width * 0.03, self.x1 + width * 0.03, self.eaves, slope, rake)
            b.shape(self.x0, y, self.x1, self.eaves + 1, slope, self.paints)
            self._dormer(
                (self.x0 + self.x1) / 2, self.eaves - height * 0.22, self.storey * 0.5, self.storey * 0.3, None
            )
            return
        height = self.storey * r.uniform(0.35, 1.2)
        lean = height * r.uniform(0.05, 0.9)
        y = self.eaves - height
        for _ in range(r.choice((0, 1, 2, 3))):
            at, wide = r.uniform(self.x0, self.x1), self.pitch * r.uniform(0.12, 0.3)
            tone = r.choice(BRICK + STUCCO[:3])
            b.rect(
                at, y - self.storey * r.uniform(0.15, 0.5), at + wide, self.eaves, paint(tint(tone, 0.9), Label.ROOF)
            )
        slant = 2 * lean / width
        b.shape(self.x0, y, self.x1, self.eaves, lambda u, v: abs(u) < 1 - slant * (1 - v) / 2, paints)
        b.shade(self.x0, y, self.x1, self.eaves, 1, max(3, round(height / 9)))
        b.rect(self.x0 + lean, y, self.x1 - lean, y + 1, paint(tint(colour, 0.7), Label.ROOF))
        if height > 0.4 * self.storey and r.random() < 0.75:
            every, size = r.choice((1, 1, 2)), height * r.uniform(0.45, 0.7)
            cap = r.choice(("flat", "gable"))
            for bay in range(r.randrange(every), len(self.kinds), every):
                middle = (self.edges[bay] + self.edges[bay + 1]) / 2
                if self.x0 + lean < middle < self.x1 - lean:
                    self._dormer(middle, self.eaves - height * 0.12, size, min(size * 0.7, self.pitch * 0.5), cap)

    def _dormer(self, centre: float, base: float, height: float, width: float, cap: str | None) -> None:
        b, r = self.b, self.r
        x0, x1, y = centre - width / 2, centre + width / 2, base - height
        if cap:
            b.shade(
                x1 if b.side < 0 else x0 - width * 0.25, y, x1 + width * 0.25 if b.side < 0 else x0, base, b.depth + 1
            )
            b.rect(x0, y, x1, base, paint(tint(self.trim, 0.96), Label.TRIM))
            if cap == "gable":
                b.shape(
                    x0 - 1,
                    y - width * 0.4,
                    x1 + 1,
                    y,
                    lambda u, v: abs(u) < (v + 1) / 2,
                    paint(tint(self.trim, 0.75), Label.TRIM),
                )
            b.rect(x0 - 1, y, x1 + 1, y + height * 0.1, paint(tint(self.trim, 0.55), Label.TRIM))
        if "dormer" not in self.__dict__:
            family = Window(1, 1, 0, self.frame, self.trim, lights=2, ledge=False)
            self.dormer = Stamp(b, family, width * 0.66, height * 0.7)
        self.dormer.put(
            b,
            centre - self.dormer.w / 2,
            base - height * 0.08 - self.dormer.h,
            r.choice(self.pictures),
            self.glasses[0],
        )
