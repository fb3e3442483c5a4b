"""Colours, styles, paint and the brush that facades are drawn with.

A canvas is an `(H, W)` array of uint32. One number is one pixel, `red | green << 8 | blue << 16 | label << 24`,
and 0 is clear; so colour and label are drawn together, by one assignment. Positions are canvas pixels, as floats.
"""

from enum import IntEnum
from random import Random
from typing import NamedTuple

import numpy as np

Label = IntEnum("Label", "SKY ROOF WALL WINDOW DOOR BALCONY SHOP TRIM SHUTTER GROUND PLANT OBJECT VOID", start=0)
LABELS = tuple(label.name.lower() for label in Label)
RGB = tuple[float, float, float]  # 0 to 255

STUCCO = ((196, 174, 146), (170, 154, 131), (154, 142, 124), (206, 199, 183), (184, 146, 102), (170, 176, 166),
          (212, 186, 126), (200, 162, 142), (176, 184, 160), (154, 167, 180), (222, 211, 185), 
          (184, 130, 98))  # fmt: skip
BRICK = ((142, 86, 68), (122, 74, 60), (160, 110, 86), (152, 122, 98), (108, 68, 60))
STONE = ((152, 147, 139), (124, 121, 113), (144, 131, 108), (110, 102, 90), (180, 169, 148), (132, 112, 92))
CONCRETE = ((160, 163, 158), (134, 134, 131), (192, 189, 182), (104, 112, 116), (176, 168, 152), *STUCCO[:5])
JOINERY = ((226, 224, 216), (210, 205, 192), (92, 66, 50), (60, 48, 42), (52, 54, 58), (120, 84, 58), (70, 84, 72))
ACCENT = ((70, 92, 76), (104, 60, 50), (92, 98, 106), (60, 76, 96), (130, 44, 42), (118, 92, 66), (150, 150, 142))
TILES = ((122, 76, 60), (138, 92, 72), (84, 84, 88), (66, 68, 74), (96, 84, 76), (110, 112, 116))


class Style(NamedTuple):
    """Ranges are pairs; single numbers are shares or probabilities."""

    walls: tuple[RGB, ...]
    masonry: float  # contrast between bricks or blocks
    bay: tuple[float, float]  # in storey heights
    width: tuple[float, float]  # of a window, in bays
    height: tuple[float, float]  # of a window, in storeys
    arch: float
    hood: float
    shutters: float
    balcony: float
    relief: float
    pilaster: float
    shop: float
    roof: float


STYLES = {
    "classical": Style(STUCCO, 0.0, (0.5, 0.95), (0.38, 0.54), (0.5, 0.68), 0.2, 0.7, 0.05, 0.25, 0.75, 0.3, 0.3, 0.6),
    "plain": Style(STUCCO, 0.0, (0.6, 1.1), (0.3, 0.48), (0.44, 0.62), 0.08, 0.1, 0.5, 0.22, 0.3, 0.04, 0.25, 0.8),
    "brick": Style(BRICK, 0.16, (0.5, 0.95), (0.38, 0.56), (0.48, 0.66), 0.3, 0.4, 0.08, 0.15, 0.6, 0.3, 0.3, 0.5),
    "stone": Style(STONE, 0.09, (0.5, 0.95), (0.38, 0.56), (0.5, 0.7), 0.4, 0.55, 0.04, 0.25, 0.8, 0.5, 0.3, 0.45),
    "modern": Style(CONCRETE, 0.02, (0.6, 1.4), (0.5, 0.9), (0.42, 0.62), 0.0, 0.0, 0.08, 0.35, 0.3, 0.3, 0.35, 0.2),
    "gabled": Style(STUCCO, 0.0, (0.5, 0.9), (0.38, 0.55), (0.48, 0.64), 0.2, 0.3, 0.35, 0.15, 0.45, 0.1, 0.35, 1.0),
}


def mix(colour: RGB, level: float = 1.0, other: RGB = (0, 0, 0), share: float = 0.0) -> RGB:
    """`colour` times `level`, with `share` of another colour in it."""
    (r, g, b), (p, q, s), keep = colour, other, level * (1 - share)
    return r * keep + p * share, g * keep + q * share, b * keep + s * share


def paint(colour: RGB, label: int, level: float = 1.0) -> int:
    """The pixel value of `colour` times `level`."""
    r, g, b = colour
    return min(255, int(r * level)) | min(255, int(g * level)) << 8 | min(255, int(b * level)) << 16 | label << 24


def palette(rgb: np.ndarray, label: int) -> np.ndarray:
    """Pixel values `(N,)` of colours `(N, 3)`."""
    r, g, b = rgb.clip(1, 255).astype(np.uint32).T
    return r | g << 8 | b << 16 | np.uint32(label << 24)


def material(colour: RGB, label: int, speckle: float, units: float = 0.0, joint: RGB | None = None) -> np.ndarray:
    """Palette `(256,)` for the codes of `masonry`; `units` is the contrast of bricks, `speckle` that within one."""
    code = np.arange(256)
    fine = 1 + speckle * ((code & 31) / 15.5 - 1)
    rgb = (fine + units * ((code >> 5) - 4) / 3)[:, None] * np.array(colour)
    if joint is not None:
        rgb[:32] = fine[:32, None] * np.array(joint)
    return palette(rgb, label)


def masonry(shape: tuple[int, int], course: int, noise: np.random.Generator) -> np.ndarray:
    """Codes `(H, W)` uint8: upper 3 bits a brick's own tone (1 to 7, 0 is a joint), lower 5 bits speckle."""
    height, width = shape
    length = 3 * course
    rows, cols = height // course + 1, width // length + 3
    tone = noise.normal(4.5, 1.3, (rows, cols)).clip(1, 7.9).astype(np.uint8) << 5
    wall = np.repeat(tone, length, axis=1)
    wall[:, ::length] = 0
    wall[1::2, :width] = wall[1::2, length // 2 : length // 2 + width]  # running bond
    wall = np.repeat(wall[:, :width], course, axis=0)[:height]
    wall[::course] = 0
    speckle = np.frombuffer(noise.bytes(height * width), np.uint8).reshape(shape)
    return wall | ((speckle & 15) + (speckle >> 4))


class Brush:
    """Draws on one canvas, in one light.

    `unit` is the height in pixels that sizes are fractions of, `side` where the light comes from (-1 left, 1 right),
    `depth` how dark shadows are (in eighths), `codes` the masonry that `fill` paints with.
    """

    def __init__(self, canvas: np.ndarray, unit: float, rng: Random, side: int, depth: float, codes: np.ndarray):
        self.canvas, self.unit, self.rng, self.side, self.depth, self.codes = canvas, unit, rng, side, depth, codes

    def on(self, canvas: np.ndarray) -> "Brush":
        """The same brush for another canvas."""
        return Brush(canvas, self.unit, self.rng, self.side, self.depth, self.codes)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """Rows and columns of a box, at least one pixel thick, cut to the canvas."""
        left, top, right, bottom = int(x0 + 0.5), int(y0 + 0.5), int(x1 + 0.5), int(y1 + 0.5)
        right, bottom = right if right > left else left + 1, bottom if bottom > top else top + 1
        rows = slice(top, bottom) if top >= 0 else slice(0, max(bottom, 0))
        return rows, slice(left, right) if left >= 0 else slice(0, max(right, 0))

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, label: int, level: float = 1.0) -> None:
        self.canvas[self.box(x0, y0, x1, y1)] = paint(colour, label, level)

    def fill(self, x0: float, y0: float, x1: float, y1: float, paints: np.ndarray) -> None:
        box = self.box(x0, y0, x1, y1)
        self.canvas[box] = paints[self.codes[box]]

    def shade(self, x0: float, y0: float, x1: float, y1: float, depth: float, step: int = 1) -> None:
        """Darken a box, or every `step`-th row of it, by `depth` eighths; labels stay."""
        rows, cols = self.box(x0, y0, x1, y1)
        part = self.canvas[rows.start : rows.stop : step, cols]
        part -= ((part >> 4) & np.uint32(0x0F0F0F)) * np.uint32(min(15, int(2 * depth + 0.5)))

    def comb(
        self, box: tuple[float, ...], step: float, thick: float, colour: RGB, label: int, level: float = 1.0
    ) -> None:
        """Upright bars of `thick`, one every `step`, in the box (x0, y0, x1, y1)."""
        rows, cols = self.box(*box)
        step = max(2, int(step + 0.5))
        for k in range(min(step - 1, max(1, int(thick + 0.5)))):
            self.canvas[rows, cols.start + k : cols.stop : step] = paint(colour, label, level)

    def shape(self, x0: float, y0: float, x1: float, y1: float, inside, paints: int | np.ndarray) -> None:
        """Fill where `inside(u, v)`; u and v run from -1 to 1 over the box. Paints as one value or as a material."""
        rows, cols = self.box(x0, y0, x1, y1)
        part = self.canvas[rows, cols]
        v = (np.arange(rows.start, rows.start + part.shape[0]) + 0.5 - y0) * (2 / max(1, y1 - y0)) - 1
        u = (np.arange(cols.start, cols.start + part.shape[1]) + 0.5 - x0) * (2 / max(1, x1 - x0)) - 1
        values = paints[self.codes[rows, cols]] if isinstance(paints, np.ndarray) else np.uint32(paints)
        np.copyto(part, values, where=inside(u[None, :], v[:, None]))

    def paste(self, stamp: np.ndarray, left: int, top: int) -> None:
        """Put a stamp down by its upper left corner; its clear pixels change nothing."""
        stamp = stamp[max(0, -top) :, max(0, -left) :]
        top, left = max(top, 0), max(left, 0)
        part = self.canvas[top : top + stamp.shape[0], left : left + stamp.shape[1]]
        stamp = stamp[: part.shape[0], : part.shape[1]]
        np.copyto(part, stamp, where=stamp != 0)

    def band(self, x0: float, y: float, x1: float, height: float, colour: RGB, reach: float = 0.6) -> None:
        """A projecting moulding: bright upper edge, body, dark lower edge, and its shadow on what is below."""
        self.rect(x0, y, x1, y + height, colour, Label.TRIM)
        self.rect(x0, y, x1, y + height * 0.3, colour, Label.TRIM, 1.12)
        self.rect(x0, y + height * 0.7, x1, y + height, colour, Label.TRIM, 0.66)
        self.shade(x0, y + height, x1, y + height * (1 + reach), self.depth + 1)
