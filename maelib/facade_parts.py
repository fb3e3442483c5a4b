"""Paint, brush and the parts that facades are made of: windows, doors, shop fronts, balconies.

A canvas is an `(H, W)` array of uint32. One number is one pixel, `red | green << 8 | blue << 16 | label << 24`,
and 0 is clear; so colour and label are drawn together, by one assignment. Positions are canvas pixels, as floats.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from random import Random

import numpy as np

Label = IntEnum("Label", "SKY ROOF WALL WINDOW DOOR BALCONY SHOP TRIM SHUTTER GROUND PLANT OBJECT", start=0)
LABELS = tuple(label.name.lower() for label in Label)

RGB = tuple[float, float, float]


def tint(colour: RGB, factor: float, towards: RGB = (0, 0, 0), share: float = 0.0) -> RGB:
    """`colour` times `factor`, then mixed with `share` of another."""
    return tuple(c * factor * (1 - share) + t * share for c, t in zip(colour, towards, strict=True))


def paint(colour: RGB, label: int) -> int:
    """One pixel's value; colours run from 0 to 255 and are clipped."""
    r, g, b = (min(255, max(1, int(c))) for c in colour)
    return r | g << 8 | b << 16 | label << 24


def palette(colour: RGB, label: int, noise: float, units: float = 0.0, joint: RGB | None = None) -> np.ndarray:
    """Paints `(256,)` for the codes of `grain`: `units` is the contrast between bricks, `noise` that of the speckle."""
    code = np.arange(256)
    unit, speckle = code >> 5, (code & 31) / 15.5 - 1
    level = 1 + noise * speckle + units * (unit - 4) / 3
    rgb = level[:, None] * np.array(colour)
    if joint is not None:
        rgb[:32] = np.array(joint) * (1 + noise * speckle[:32, None])
    r, g, b = rgb.clip(1, 255).astype(np.uint32).T
    return r | g << 8 | b << 16 | np.uint32(label << 24)


def grain(shape: tuple[int, int], course: int, length: int, noise: np.random.Generator) -> np.ndarray:
    """Masonry `(H, W)` uint8: a brick's tone (1-7; 0 is a joint) in the upper 3 bits, speckle in the lower 5."""
    height, width = shape
    rows, cols = height // course + 1, width // length + 3
    tone = (np.rint(noise.normal(4, 1.3, (rows, cols)).clip(1, 7)).astype(np.uint8)) << 5
    wall = np.repeat(tone, length, axis=1)
    wall[:, ::length] = 0
    wall[1::2, :width] = wall[1::2, length // 2 : length // 2 + width]
    wall = np.repeat(wall[:, :width], course, axis=0)[:height]
    wall[::course] = 0
    speckle = np.frombuffer(noise.bytes(height * width), np.uint8).reshape(shape)
    return wall | ((speckle & 15) + ((speckle >> 4) & 15))


class Brush:
    """Draws on one canvas with one light.

    `unit` is the height in pixels that sizes are fractions of, `side` is where the light comes from (-1 left, 1 right),
    `depth` how dark shadows are (0 to 5 eighths), `codes` the masonry that `wall` paints with.
    """

    def __init__(self, canvas: np.ndarray, unit: float, rng: Random, side: int, depth: int, codes: np.ndarray):
        self.canvas, self.unit, self.rng, self.side, self.depth, self.codes = canvas, unit, rng, side, depth, codes

    def on(self, canvas: np.ndarray) -> "Brush":
        """The same brush on another canvas."""
        return Brush(canvas, self.unit, self.rng, self.side, self.depth, self.codes)

    def slices(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """The box in whole pixels, at least one thick, cut to the canvas."""
        left, top = int(x0 + 0.5), int(y0 + 0.5)
        right, bottom = max(left + 1, int(x1 + 0.5)), max(top + 1, int(y1 + 0.5))
        return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))

    def rect(self, x0: float, y0: float, x1: float, y1: float, value: int) -> None:
        self.canvas[self.slices(x0, y0, x1, y1)] = value

    def shade(self, x0: float, y0: float, x1: float, y1: float, depth: float, step: int = 1) -> None:
        """Darken a box (or every `step`-th row of it) by `depth` eighths; labels stay."""
        rows, cols = self.slices(x0, y0, x1, y1)
        box = self.canvas[rows.start : rows.stop : step, cols]
        box -= ((box >> 4) & np.uint32(0x0F0F0F)) * np.uint32(int(2 * depth + 0.5))

    def wall(self, x0: float, y0: float, x1: float, y1: float, paints: np.ndarray) -> None:
        box = self.slices(x0, y0, x1, y1)
        self.canvas[box] = paints[self.codes[box]]

    def comb(self, x0: float, y0: float, x1: float, y1: float, step: float, thick: float, value: int) -> None:
        """Upright bars of `thick`, one every `step`."""
        rows, cols = self.slices(x0, y0, x1, y1)
        step = max(2, int(step + 0.5))
        for k in range(min(step - 1, max(1, int(thick + 0.5)))):
            self.canvas[rows, cols.start + k : cols.stop : step] = value

    def shape(self, x0: float, y0: float, x1: float, y1: float, inside, value) -> None:
        """Fill where `inside(u, v)` holds; u and v run from -1 to 1 over the box; `value` is a paint or a palette."""
        rows, cols = self.slices(x0, y0, x1, y1)
        box = self.canvas[rows, cols]
        v = (np.arange(rows.start, rows.start + box.shape[0]) + 0.5 - y0) * (2 / max(1, y1 - y0)) - 1
        u = (np.arange(cols.start, cols.start + box.shape[1]) + 0.5 - x0) * (2 / max(1, x1 - x0)) - 1
        source = value if np.ndim(value) == 0 else value[self.codes[rows, cols]]
        np.copyto(box, np.uint32(source) if np.ndim(value) == 0 else source, where=inside(u[None, :], v[:, None]))

    def paste(self, stamp: np.ndarray, x: float, y: float) -> None:
        """Put a stamp with its upper left corner at x, y; its clear pixels change nothing."""
        left, top = int(x + 0.5), int(y + 0.5)
        stamp = stamp[max(0, -top) :, max(0, -left) :]
        top, left = max(top, 0), max(left, 0)
        box = self.canvas[top : top + stamp.shape[0], left : left + stamp.shape[1]]
        stamp = stamp[: box.shape[0], : box.shape[1]]
        np.copyto(box, stamp, where=stamp != 0)

    def band(self, x0: float, y: float, x1: float, height: float, colour: RGB, reach: float = 0.5) -> None:
        """A projecting moulding: bright upper edge, body, dark lower edge, and its shadow on what is below."""
        self.rect(x0, y, x1, y + height, paint(colour, Label.TRIM))
        self.rect(x0, y, x1, y + height * 0.3, paint(tint(colour, 1.12), Label.TRIM))
        self.rect(x0, y + height * 0.75, x1, y + height, paint(tint(colour, 0.72), Label.TRIM))
        self.shade(x0, y + height, x1, y + height * (1 + reach), self.depth + 1)


@lru_cache(maxsize=1)
def glass_pictures() -> np.ndarray:
    """What panes show, `(96, 24, 16)` uint8 levels, dark ones first: reflections, curtains, blinds, rooms."""
    noise = np.random.Generator(np.random.SFC64(11))
    v, u = np.linspace(0, 1, 24)[:, None], np.linspace(-1, 1, 16)[None, :]
    pictures = []
    for _ in range(96):
        top, bottom = noise.uniform(20, 150), noise.uniform(10, 90)
        view = top + (bottom - top) * v + 0 * u
        skyline = noise.uniform(0.2, 1.2) + 0.3 * noise.uniform(-1, 1) * np.sign(u - noise.uniform(-1, 1))
        view = np.where(v < skyline, view + noise.uniform(0, 90) * (noise.random() < 0.5), view)
        kind = noise.random()
        if kind < 0.3:  # drapes at both sides
            view = np.where(np.abs(u) > noise.uniform(0.3, 0.8) + 0.2 * v, noise.uniform(90, 220), view)
        elif kind < 0.5:  # net curtain, in folds
            net = noise.uniform(80, 200) * (1 + 0.12 * np.sin(u * noise.uniform(6, 14)))
            view = np.where(v > noise.choice([0, 0, 0.45]), 0.25 * view + 0.75 * net, view)
        elif kind < 0.68:  # blind, let down part of the way
            slats = noise.uniform(90, 230) * (1 + 0.06 * np.sin(v * 60))
            view = np.where(v < noise.uniform(0.15, 1.0), slats, view)
        view = view + noise.normal(0, 10, (24, 16)) + noise.uniform(-14, 14) * np.sign(u)
        pictures.append(view.clip(0, 255))
    pictures.sort(key=lambda picture: picture.mean())
    return np.stack(pictures).astype(np.uint8)


@dataclass
class Window:
    """A family of windows. Width is in bays, height and sill in storeys, the rest in window widths."""

    width: float
    height: float
    sill: float
    frame: RGB
    trim: RGB
    arch: float = 0.0  # rise of the arch; 0.5 is a half circle
    lights: int = 2  # panes side by side
    transom: float = 0.0  # where the cross bar is; 0 is none
    bars: int = 0  # thin bars in each light
    surround: float = 0.0
    ledge: bool = True
    hood: str = "none"  # none, flat, triangle, curve, key
    apron: bool = False
    shutters: RGB | None = None
    balcony: str = "none"  # none, rail, stone, solid
    posts: int = 0  # wide posts between groups of lights


class Stamp:
    """A family's window at one size: everything but the glass, which every window has its own of."""

    def __init__(self, brush: Brush, window: Window, width: float, height: float):
        self.window, self.w, self.h = window, max(2, round(width)), max(3, round(height))
        w, h = self.w, self.h
        edge = max(1, round(w * window.surround)) if window.surround else 0
        hood = (
            0 if window.hood == "none" else max(2, round(w * (0.34 if window.hood in ("triangle", "curve") else 0.2)))
        )
        below = max(2, round(h * 0.24)) if window.apron else (max(1, round(w * 0.1)) if window.ledge else 0)
        self.dx, self.dy = edge + (max(1, w // 8) if hood or window.ledge else 0), edge + hood
        self.pixels = np.zeros((self.dy + h + below, w + 2 * self.dx), np.uint32)
        b = brush.on(self.pixels)
        x, y, trim = self.dx, self.dy, window.trim
        if edge:
            b.rect(x - edge, y - edge, x + w + edge, y + h, paint(trim, Label.TRIM))
            lit = x - edge if brush.side < 0 else x + w + edge - 1
            b.rect(lit, y - edge, lit + 1, y + h, paint(tint(trim, 1.1), Label.TRIM))
        if hood:
            self._hood(b, hood, edge)
        if window.apron:
            b.rect(x - edge, y + h, x + w + edge, y + h + below, paint(tint(trim, 0.94), Label.TRIM))
            b.rect(
                x + w * 0.12,
                y + h + below * 0.35,
                x + w * 0.88,
                y + h + below * 0.8,
                paint(tint(trim, 0.82), Label.TRIM),
            )
        if window.ledge:
            b.rect(0, y + h, w + 2 * x, y + h + max(1, h * 0.035), paint(tint(trim, 1.12), Label.TRIM))
            b.rect(
                0, y + h + max(1, h * 0.035), w + 2 * x, y + h + max(2, h * 0.06), paint(tint(trim, 0.6), Label.TRIM)
            )
        self._frame(b, edge)
        opening = self.pixels[y : y + h, x : x + w]
        self.glass = opening == paint((1, 1, 1), Label.WINDOW)
        self.rows, self.cols = (np.arange(h) * 24 // h)[:, None], np.arange(w) * 16 // w
        self.dim = np.full((h, w), 16, np.uint16)
        shadow = max(1, round(0.07 * h))
        self.dim[:shadow] = 16 - 2 * brush.depth - 2
        thin = max(1, round(0.05 * w))
        self.dim[:, slice(0, thin) if brush.side < 0 else slice(w - thin, w)] = 16 - 2 * brush.depth

    def _hood(self, b: Brush, hood: int, edge: int) -> None:
        w, x, y, trim = self.w, self.dx, self.dy - edge, self.window.trim
        light, dark = paint(tint(trim, 1.1), Label.TRIM), paint(tint(trim, 0.6), Label.TRIM)
        thick = max(1, hood * 0.22)
        if self.window.hood == "key":
            b.rect(x + w * 0.4, y - hood * 0.6, x + w * 0.6, y + edge + 1, light)
            b.rect(x + w * 0.6, y - hood * 0.6, x + w * 0.6 + 1, y + edge, dark)
            return
        if self.window.hood == "triangle":
            b.shape(0, y - hood, w + 2 * x, y, lambda u, v: abs(u) < (v + 1) / 2, light)
            b.shape(x * 0.6, y - hood + thick * 1.4, w + 1.4 * x, y, lambda u, v: abs(u) < (v + 1) / 2, dark)
        if self.window.hood == "curve":
            b.shape(0, y - hood, w + 2 * x, y + hood, lambda u, v: (u * u + v * v < 1) & (v < 0), light)
            b.shape(
                x * 0.6, y - hood + thick * 1.4, w + 1.4 * x, y + hood, lambda u, v: (u * u + v * v < 1) & (v < 0), dark
            )
        b.rect(0, y - 2 * thick, w + 2 * x, y - thick, light)
        b.rect(0, y - thick, w + 2 * x, y, dark)

    def _frame(self, b: Brush, edge: int) -> None:
        """Frame and bars; the panes are marked with a paint that nothing else has."""
        w, h, x, y, window = self.w, self.h, self.dx, self.dy, self.window
        bar, pane = paint(window.frame, Label.WINDOW), paint((1, 1, 1), Label.WINDOW)
        thick = max(1, round(w * 0.055))
        b.rect(x, y, x + w, y + h, bar)
        b.rect(x + thick, y + thick, x + w - thick, y + h - thick, pane)
        for i in range(1, window.lights):
            at = x + w * i / window.lights
            b.rect(at - thick / 2, y, at + thick / 2, y + h, bar)
        thin = paint(tint(window.frame, 0.92), Label.WINDOW)
        for i in range(1, window.bars + 1):
            b.rect(x, y + h * i / (window.bars + 1), x + w, y + h * i / (window.bars + 1) + 1, thin)
        if window.transom:
            b.rect(x, y + h * window.transom - thick / 2, x + w, y + h * window.transom + thick / 2, bar)
        for i in range(1, window.posts + 1):
            at = x + w * i / (window.posts + 1)
            b.rect(at - w * 0.05, y, at + w * 0.05, y + h, paint(window.trim, Label.TRIM))
        if window.arch:
            rise = window.arch * w
            spandrel = paint(window.trim, Label.TRIM) if edge else 0
            b.shape(x, y, x + w, y + 2 * rise, lambda u, v: (v < 0) & (u * u + v * v > 0.98), spandrel)
            if edge and window.hood == "none":
                b.shape(x - edge, y - edge, x + w + edge, y + 2 * rise + edge,
                        lambda u, v: (v < 0) & (u * u + v * v > 1), 0)  # fmt: skip

    def put(self, brush: Brush, x: float, y: float, picture: np.ndarray, paints: np.ndarray) -> None:
        """Set a window with its opening's upper left corner at x, y, showing a glass picture in given colours."""
        left, top = int(x + 0.5), int(y + 0.5)
        brush.paste(self.pixels, left - self.dx, top - self.dy)
        r, c = max(0, -top), max(0, -left)
        box = brush.canvas[top + r : max(0, top + self.h), left + c : max(0, left + self.w)]
        cut = slice(r, r + box.shape[0]), slice(c, c + box.shape[1])
        if box.size:
            levels = picture[self.rows[cut[0]], self.cols[cut[1]]] * self.dim[cut] >> 4
            np.copyto(box, paints[levels], where=self.glass[cut])
