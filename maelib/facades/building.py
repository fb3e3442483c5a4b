"""One building: storeys and bays, what stands out of its wall, windows and balconies."""

from dataclasses import replace
from random import Random

import numpy as np

from maelib.facades import roof_and_ground as ends
from maelib.facades.brush import ACCENT, JOINERY, STYLES, Brush, Label, material, mix, palette
from maelib.facades.windows import Stamp, Window, glass_pictures


def rhythm(r: Random, count: int) -> list[int]:
    """Which of two kinds each bay is: all alike, the middle or the ends apart, alternating, or mirrored at random."""
    plan, middle = r.random(), (count - 1) / 2
    half = [int(r.random() < 0.35) for _ in range(count)]
    if plan < 0.3:
        return [0] * count
    if plan < 0.5:
        return [int(abs(i - middle) < 1) for i in range(count)]
    if plan < 0.65:
        return [int(i in (0, count - 1)) for i in range(count)]
    return [i % 2 if plan < 0.75 else half[min(i, count - 1 - i)] for i in range(count)]


class Building:
    """A facade in the canvas box (left, eaves, right, ground), decided on creation and then drawn from the top down."""

    def __init__(self, brush: Brush, style: str, box: tuple[float, float, float, float], storeys: int):
        self.b, self.r, self.s = brush, brush.rng, STYLES[style]
        self.x0, self.eaves, self.x1, self.ground = box
        self.gabled, self.bricks = style == "gabled", style == "brick"
        self.look = self._look()
        self.accent = mix(self.r.choice(ACCENT), self.r.uniform(0.8, 1.2))
        self.rail = self.r.choice(((40, 40, 44), (64, 66, 68), self.look.trim))
        self.rail_kind = self.r.choice(("rail", "rail", "stone", "solid"))
        self._plan(storeys)
        self.stamps: dict[tuple[int, int], Stamp] = {}
        self.families: list[tuple[Window, Window]] = []  # for each storey, by kind of bay
        fresh = self.r.uniform(0.1, 0.7)
        for level in range(storeys):
            same = level > 1 and self.r.random() > fresh
            self.families.append(self.families[-1] if same else self._pair(level))

    def _look(self) -> ends.Look:
        r, s = self.r, self.s
        colour = mix(r.choice(s.walls), r.uniform(0.88, 1.12), (156, 150, 140), r.uniform(0.1, 0.55))
        trim = mix(colour, r.choice((r.uniform(0.68, 0.9), r.uniform(0.9, 1.2))))
        if r.random() < 0.4:
            trim = mix(trim, 1, r.choice(((226, 219, 203), (200, 194, 182))), r.uniform(0.5, 0.9))
        frame = mix(r.choice(JOINERY[:2] if r.random() < 0.55 else JOINERY), r.uniform(0.9, 1.05))
        joint = mix(colour, 0.8, (176, 168, 156), 0.5 * self.bricks) if s.masonry > 0.05 else None
        paints = material(colour, Label.WALL, r.uniform(0.06, 0.18), s.masonry, joint)
        pictures, first = glass_pictures(), r.randrange(58)
        pictures = pictures[first : first + r.randint(15, 58)]
        casts = (0.97, 1, 1.04), (1, 0.98, 0.93), (0.9, 0.98, 1.1)
        levels = (np.arange(256) * r.uniform(0.7, 1.1) + 6)[:, None]
        glass = [palette(levels * np.array(cast), Label.WINDOW) for cast in casts]
        glass.append(palette((levels * 0.7 + 85) * np.array((1.05, 0.9, 0.58)), Label.WINDOW))  # a lit room
        return ends.Look(colour, trim, frame, paints, pictures, glass)

    def _plan(self, storeys: int) -> None:
        """Lay out floors (ground first) and the edges of bays."""
        r = self.r
        heights = [r.uniform(0.95, 1.4), r.choice((1.0, r.uniform(1.0, 1.25)))] + [1.0] * storeys
        heights[storeys - 1] *= r.choice((1.0, r.uniform(0.65, 0.9))) if storeys > 3 else 1.0
        self.storey = (self.ground - self.eaves) / sum(heights[:storeys])
        self.floors = [self.ground - self.storey * sum(heights[:i]) for i in range(storeys + 1)]
        pitch = self.storey * r.uniform(*self.s.bay)
        margin = r.uniform(0.0, 0.25) * pitch
        self.kinds = rhythm(r, max(1, round((self.x1 - self.x0 - 2 * margin) / pitch)))
        self.wide, loose = r.uniform(1.0, 1.7), r.choice((0.0, 0.03, 0.07))
        shares = [(self.wide if kind else 1.0) * r.uniform(1 - loose, 1 + loose) for kind in self.kinds]
        self.pitch = (self.x1 - self.x0 - 2 * margin) / sum(shares)
        self.edges = [self.x0 + margin + self.pitch * sum(shares[:i]) for i in range(len(shares) + 1)]
        self.stairs = r.randrange(len(shares)) if r.random() < 0.12 else -1  # a bay half a storey off

    def _pair(self, level: int) -> tuple[Window, Window]:
        """A storey's windows: in common bays, and wider or richer in special ones."""
        r, s = self.r, self.s
        base = self._family(level)
        wide = replace(base)
        if r.random() < 0.6:
            wide.lights, wide.posts = base.lights + r.choice((1, 2)), r.choice((0, 1, 2))
            wide.width = min(0.8, base.width * r.uniform(1.0, 1.4))
        if r.random() < s.hood * 0.5:
            wide.hood = r.choice(("triangle", "curve", "flat"))
        if level and r.random() < s.balcony:
            wide.balcony = self.rail_kind
        for window in (base, wide):
            if window.balcony:  # a French window
                window.height, window.sill, window.apron = min(0.86, window.height + window.sill - 0.04), 0.04, 0
        return base, wide

    def _family(self, level: int) -> Window:
        r, s = self.r, self.s
        width, height = r.uniform(*s.width), r.uniform(*s.height)
        slender = height / width * self.storey / self.pitch
        window = Window(width, height, min(r.uniform(0.12, 0.3), 0.9 - height), self.look.frame, self.look.trim)
        if level == 0 and r.random() < 0.25:  # arcade
            window = replace(window, width=r.uniform(0.55, 0.8), height=0.78, sill=0.02, arch=0.5)
        elif r.random() < s.arch:
            window.arch = r.choice((0.5, 0.5, 0.18))
        window.lights = 1 if r.random() < 0.12 else 2 if slender > 1.2 else r.choice((2, 3, 3, 4))
        window.transom = r.uniform(0.24, 0.4) if slender > 1.3 and r.random() < 0.65 else 0.0
        window.bars = r.choice((0, 0, 0, 0, 1, 2, 3))
        window.surround = r.uniform(0.08, 0.26) if r.random() < 0.35 + s.hood else 0.0
        window.hood = r.choice(("flat", "flat", "triangle", "curve", "key", "key")) if r.random() < s.hood else ""
        window.ledge = r.random() < 0.85
        window.apron = r.uniform(0.12, 0.26) if window.sill > 0.16 and r.random() < s.hood * 0.6 else 0.0
        window.shutters = self.accent if width < 0.5 and r.random() < s.shutters else None
        window.balcony = self.rail_kind if level and r.random() < s.balcony * 0.5 else ""
        return window

    def draw(self) -> None:
        b, r, s, x0, x1, look, last = self.b, self.r, self.s, self.x0, self.x1, self.look, len(self.floors) - 2
        if self.gabled:
            ends.gable(b, look, x0, x1, self.eaves, self.storey)
        elif r.random() < s.roof:
            ends.roof(b, look, [x0, *self.edges[1:-1], x1], self.eaves, self.storey)
        b.fill(x0, self.eaves, x1, self.ground, look.paints)
        self._materials()
        self._relief()
        has_shops = r.random() < s.shop
        gallery = r.randint(1, last) if last > 0 and r.random() < s.balcony * 0.7 else -1
        for level in range(last + 1):
            if level == 0 and has_shops:
                ends.shops(b, look, self.edges, self.floors[1], self.ground)
            else:
                self._storey(level)
            if level == gallery:
                self._balcony(self.edges[0], self.edges[-1], self.floors[level], self.rail_kind)
        if not self.gabled:
            height = self.storey * (r.uniform(0.06, 0.24) if s.relief > 0.35 else r.uniform(0.03, 0.08))
            ends.cornice(b, look, x0, x1, self.eaves, height, r.random() < s.relief)
        if r.random() < 0.3:  # rain pipe
            at, thick = r.choice(self.edges), max(1, 0.006 * b.unit)
            b.rect(at, self.eaves, at + thick, self.ground, look.colour, Label.TRIM, r.uniform(0.4, 0.8))
            b.shade(at + thick, self.eaves, at + 2 * thick, self.ground, 1)

    def _materials(self) -> None:
        """Another material below, grooves, parts of the wall that project."""
        b, r, s, n, colour = self.b, self.r, self.s, len(self.kinds), self.look.colour
        x0, x1, ground, floors = self.x0, self.x1, self.ground, self.floors
        if r.random() < 0.5:
            below = mix(colour, r.uniform(0.66, 1.04), (128, 122, 114), r.uniform(0.0, 0.7))
            level = 2 if len(floors) > 5 and r.random() < 0.3 else 1
            b.fill(x0, floors[level], x1, ground, material(below, Label.WALL, 0.1, r.choice((0, 0.08))))
        if r.random() < s.relief:
            b.shade(x0, floors[-1 if r.random() < 0.15 else 1], x1, ground, 2, max(3, round(self.storey / 8)))
        if r.random() < 0.6:  # plinth
            b.rect(x0, ground - self.storey * 0.12, x1, ground, colour, Label.WALL, 0.6)
        if n > 2 and r.random() < 0.3:  # projecting middle or ends, down to the ground or as oriels
            spans = ((0, 1), (n - 1, n)) if r.random() < 0.4 else (((n - 1) // 2, n // 2 + 1),)
            tone = material(mix(colour, r.uniform(0.92, 1.14)), Label.WALL, 0.08, s.masonry)
            top, foot = (self.eaves, ground) if r.random() < 0.5 else (floors[-1 - (len(floors) > 3)], floors[1])
            for left, right in ((self.edges[i], self.edges[j]) for i, j in spans):
                b.fill(left, top, right, foot, tone)
                away, reach = (right, self.pitch * 0.14) if b.side < 0 else (left, -self.pitch * 0.14)
                b.shade(min(away, away + reach), top, max(away, away + reach), foot, b.depth + 1)
                if foot < ground:
                    b.band(left, foot, right, self.storey * 0.08, self.look.trim, reach=2)

    def _relief(self) -> None:
        """Pilasters or quoins, and string courses."""
        b, r, s, trim, floors = self.b, self.r, self.s, self.look.trim, self.floors
        if r.random() < s.pilaster:
            wide, lowest = self.pitch * r.uniform(0.08, 0.2), floors[r.randrange(min(2, len(floors) - 1))]
            for at in self.edges[:: r.choice((1, 1, 2))]:
                b.rect(at - wide / 2, self.eaves, at + wide / 2, lowest, trim, Label.TRIM)
                dark = at + wide / 2 if b.side < 0 else at - wide / 2 - 1
                b.shade(dark, self.eaves, dark + max(1, wide * 0.25), lowest, b.depth + 1.5)
        elif r.random() < s.relief * 0.5:
            size = self.pitch * 0.14
            for k, y in enumerate(np.arange(self.eaves, self.ground, size * 1.2)):
                reach = size * (1 + k % 2 * 0.6)
                for left in (self.x0, self.x1 - reach):
                    b.rect(left, y, left + reach, y + size, trim, Label.TRIM, 1.04)
        share = r.choice((0.0, 0.3, 1.0)) if r.random() < s.relief + 0.2 else 0.0
        thick, ornament = self.storey * r.uniform(0.03, 0.1), r.random() < 0.25 * s.relief
        for level in range(1, len(floors) - 1):
            if level == 1 or r.random() < share:
                b.band(self.x0, floors[level] - thick / 2, self.x1, thick, trim)
                if ornament:
                    box = (self.x0, floors[level] - thick * 1.8, self.x1, floors[level] - thick * 0.8)
                    b.rect(*box, trim, Label.TRIM, 0.9)
                    b.comb(box, thick * r.uniform(0.7, 2), thick * 0.5, trim, Label.TRIM, 0.66)

    def _storey(self, level: int) -> None:
        r, b, bottom = self.r, self.b, self.floors[level]
        tall = bottom - self.floors[level + 1]
        if bottom < 0 or bottom - tall > b.canvas.shape[0]:
            return
        entrance = r.randrange(len(self.kinds)) if level == 0 and r.random() < 0.95 else -1
        shut, skip = r.choice((0.0, 0.0, 0.1, 0.4)), r.choice((0.01, 0.01, 0.1))
        for bay, kind in enumerate(self.kinds):
            left, right = self.edges[bay], self.edges[bay + 1]
            if bay == entrance:
                wide = min(right - left, tall * 0.8) * r.uniform(0.5, 0.85)
                ends.door(b, self.look, (left + right) / 2, wide, self.floors[1], bottom)
            elif r.random() > skip and right > 0 and left < b.canvas.shape[1]:
                family = self.families[level][kind]
                key = id(family), int(tall * family.height)
                width = self.pitch * family.width * (self.wide if kind else 1)
                stamp = self.stamps[key] = self.stamps.get(key) or Stamp(b, family, width, key[1])
                base = bottom - tall * (family.sill + 0.5 * (bay == self.stairs and level > 0))
                self._window(family, stamp, (left + right - stamp.w) / 2, base - stamp.h, shut)
                if family.balcony:
                    middle, reach = (left + right) / 2, min((right - left) * 0.48, stamp.w * 0.85)
                    self._balcony(middle - reach, middle + reach, base, family.balcony)

    def _window(self, family: Window, stamp: Stamp, x: float, y: float, shut: float) -> None:
        r, b, w, h = self.r, self.b, stamp.w, stamp.h
        picture, glass = r.choice(self.look.pictures), self.look.glass
        stamp.put(b, x, y, picture[:, :: r.choice((-1, 1))], glass[3] if r.random() < 0.015 else r.choice(glass[:3]))
        closed = r.random() < shut
        if family.shutters:
            for left in (x, x + w / 2) if closed else (x - w / 2 - 1, x + w + 1):
                b.rect(left, y, left + w / 2 - 1, y + h, family.shutters, Label.SHUTTER)
                b.shade(left + 1, y + 1, left + w / 2 - 2, y + h - 1, 1.5, 3)
                b.rect(left, y + h * 0.48, left + w / 2 - 1, y + h * 0.52, family.shutters, Label.SHUTTER, 0.8)
                b.shade(left, y + h, left + w / 2, y + h + 1, b.depth)
        elif closed:  # outer blind, let down part of the way
            b.rect(x, y, x + w, y + h * r.uniform(0.3, 1), self.look.trim, Label.SHUTTER, 0.92)

    def _balcony(self, x0: float, x1: float, base: float, kind: str) -> None:
        """A slab at `base`, a railing on it, its shadow below."""
        b, height, trim, label = self.b, self.storey * 0.3, self.look.trim, Label.BALCONY
        slab, top = max(1, height * 0.16), base - height
        b.shade(x0, base + slab, x1, base + slab + height * 0.5, b.depth + 1)
        if kind == "rail":
            b.comb((x0, top, x1, base), max(2, height * 0.12), 1, self.rail, label)
            b.rect(x0, top, x1, top + height * 0.07, self.rail, label)
        elif kind == "stone":
            b.rect(x0, top, x1, base, trim, label, 0.6)
            b.comb((x0, top, x1, base), max(3, height * 0.25), height * 0.14, trim, label)
            b.rect(x0, top, x1, top + height * 0.18, trim, label, 1.1)
        else:
            front = mix(self.accent, 1.0, trim, 0.75)
            b.rect(x0, top, x1, base, front, label)
            b.rect(x0, top, x1, top + height * 0.1, front, label, 1.15)
        b.rect(x0, base, x1, base + slab, trim, label, 1.05)
        b.rect(x0, base + slab * 0.7, x1, base + slab, trim, label, 0.55)
