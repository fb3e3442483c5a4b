"""Windows: families of them, stamps of a family at one size, and what their panes show."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from maelib.facades.brush import RGB, Brush, Label, paint


@lru_cache(maxsize=1)
def glass_pictures() -> np.ndarray:
    """What panes show, `(96, 48, 32)` uint8 levels, dark ones first: reflections, curtains, blinds, rooms."""
    noise = np.random.Generator(np.random.SFC64(11))
    v, u = np.linspace(0, 1, 48)[:, None], np.linspace(-1, 1, 32)[None, :]
    pictures = []
    for _ in range(96):
        view = noise.uniform(20, 140) * (1 - v) + noise.uniform(10, 90) * v + noise.uniform(-14, 14) * np.sign(u)
        skyline = noise.uniform(0.2, 1.2) + noise.uniform(-0.3, 0.3) * np.tanh(5 * u - noise.uniform(-5, 5))
        view = view + noise.choice([0, noise.uniform(0, 100)]) / (1 + np.exp(40 * (v - skyline)))
        kind = noise.random()
        if kind < 0.3:  # drapes at both sides
            view = np.where(abs(u) > noise.uniform(0.3, 0.8) + 0.2 * v, noise.uniform(90, 220), view)
        elif kind < 0.5:  # net curtain, in folds
            net = noise.uniform(80, 200) * (1 + 0.12 * np.sin(u * noise.uniform(6, 14)))
            view = np.where(v > noise.choice([0, 0, 0.45]), 0.25 * view + 0.75 * net, view)
        elif kind < 0.68:  # blind, let down part of the way
            view = np.where(v < noise.uniform(0.15, 1.0), noise.uniform(90, 230) * (1 + 0.06 * np.sin(v * 60)), view)
        rough = noise.normal(0, 12, (12, 8)).repeat(4, axis=0).repeat(4, axis=1)
        pictures.append((view + rough + noise.normal(0, 5, (48, 32))).clip(0, 255))
    return np.stack(sorted(pictures, key=np.mean)).astype(np.uint8)


@dataclass
class Window:
    """A family of windows. Width is in bays, height and sill in storeys, the rest in shares of the window."""

    width: float
    height: float
    sill: float
    frame: RGB
    trim: RGB
    lights: int = 2  # panes side by side
    bars: int = 0  # thin bars across
    transom: float = 0.0  # where the cross bar is; 0 is none
    posts: int = 0  # wide posts of the wall's trim
    arch: float = 0.0  # rise; 0.5 is a half circle
    surround: float = 0.0
    ledge: bool = True
    apron: float = 0.0  # height of the panel below
    hood: str = ""  # flat, triangle, curve, key
    shutters: RGB | None = None
    balcony: str = ""  # rail, stone, solid


class Stamp:
    """A window of one family and size without its glass, which every window has of its own."""

    def __init__(self, brush: Brush, window: Window, width: float, height: float):
        self.w, self.h = w, h = max(2, round(width)), max(3, round(height))
        self.window = window
        edge = max(1, round(w * window.surround)) if window.surround else 0
        tall = {"": 0, "flat": 0.2, "key": 0.22, "triangle": 0.36, "curve": 0.34}[window.hood]
        hood = max(2, round(min(w * tall, h * 0.3))) if tall else 0
        below = max(2, round(h * max(window.apron, 0.07))) if window.apron or window.ledge else 0
        self.x, self.y = x, y = edge + (max(1, w // 8) if hood or window.ledge else 0), edge + hood
        self.pixels = np.zeros((y + h + below, w + 2 * x), np.uint32)
        b, trim = brush.on(self.pixels), window.trim
        if edge:
            b.rect(x - edge, y - edge, x + w + edge, y + h, trim, Label.TRIM)
            lit, dim = (x - edge, x + w + edge - 1)[:: -b.side]
            b.rect(lit, y - edge, lit + 1, y + h, trim, Label.TRIM, 1.12)
            b.rect(dim, y - edge, dim + 1, y + h, trim, Label.TRIM, 0.72)
        if hood:
            self._hood(b, hood, edge)
        if window.apron:
            b.rect(x - edge, y + h, x + w + edge, y + h + below, trim, Label.TRIM, 0.95)
            b.rect(x + w * 0.1, y + h + below * 0.35, x + w * 0.9, y + h + below * 0.85, trim, Label.TRIM, 0.76)
        if window.ledge:
            b.rect(0, y + h, w + 2 * x, y + h + max(1, h * 0.035), trim, Label.TRIM, 1.14)
            b.rect(0, y + h + max(1, h * 0.035), w + 2 * x, y + h + max(2, h * 0.07), trim, Label.TRIM, 0.55)
        self._frame(b, edge)
        self.glass = self.pixels[y : y + h, x : x + w] == paint((1, 1, 1), Label.WINDOW)
        self.rows, self.cols = (np.arange(h) * 48 // h)[:, None], np.arange(w) * 32 // w
        self.dim = np.full((h, w), 16, np.uint16)  # the reveal's shadow on the glass, in sixteenths
        thin = max(1, round(0.06 * w))
        self.dim[:, slice(0, thin) if b.side < 0 else slice(w - thin, w)] = 16 - 2 * b.depth
        self.dim[: max(1, round(0.07 * h))] = 14 - 2 * b.depth

    def _hood(self, b: Brush, hood: int, edge: int) -> None:
        w, x, y, trim, kind = self.w, self.x, self.y - edge, self.window.trim, self.window.hood
        light, dark, thick = paint(trim, Label.TRIM, 1.12), paint(trim, Label.TRIM, 0.55), max(1, hood * 0.22)
        if kind == "key":  # a keystone
            b.rect(x + w * 0.4, y - hood * 0.7, x + w * 0.62, y + edge, trim, Label.TRIM, 0.6)
            b.rect(x + w * 0.4, y - hood * 0.7, x + w * 0.58, y + edge, trim, Label.TRIM, 1.12)
            return
        right, inset = w + 2 * x, x * 0.6
        if kind != "flat":  # a pediment

            def outline(u: np.ndarray, v: np.ndarray) -> np.ndarray:
                return (v < 0) & ((abs(u) < v + 1) if kind == "triangle" else (u * u + v * v < 1))

            b.shape(0, y - hood, right, y + hood, outline, light)
            b.shape(inset, y - hood + 1.4 * thick, right - inset, y + hood - 1.4 * thick, outline, dark)
        b.rect(0, y - 2 * thick, right, y - thick, trim, Label.TRIM, 1.12)
        b.rect(0, y - thick, right, y, trim, Label.TRIM, 0.55)

    def _frame(self, b: Brush, edge: int) -> None:
        """Frame and bars; panes are left in a paint that nothing else has."""
        w, h, x, y, window, label = self.w, self.h, self.x, self.y, self.window, Label.WINDOW
        thick = max(1, round(w * 0.055))
        b.rect(x, y, x + w, y + h, window.frame, label)
        b.rect(x + thick, y + thick, x + w - thick, y + h - thick, (1, 1, 1), label)
        for i in range(1, window.lights):
            at = x + w * i / window.lights - thick / 2
            b.rect(at, y, at + thick, y + h, window.frame, label)
        for i in range(1, window.bars + 1):
            at = y + h * i / (window.bars + 1)
            b.rect(x, at, x + w, at + 1, window.frame, label, 0.92)
        if window.transom:
            at = y + h * window.transom - thick / 2
            b.rect(x, at, x + w, at + thick, window.frame, label)
        for i in range(1, window.posts + 1):
            at = x + w * i / (window.posts + 1)
            b.rect(at - w * 0.05, y, at + w * 0.05, y + h, window.trim, Label.TRIM)
        if window.arch:
            foot = y + 2 * window.arch * w
            spandrel = paint(window.trim, Label.TRIM) if edge else 0
            b.shape(x, y, x + w, foot, lambda u, v: (v < 0) & (u * u + v * v > 0.98), spandrel)
            if edge and not window.hood:
                b.shape(x - edge, y - edge, x + w + edge, foot + edge, lambda u, v: (v < 0) & (u * u + v * v > 1), 0)

    def put(self, brush: Brush, x: float, y: float, picture: np.ndarray, paints: np.ndarray) -> None:
        """Set a window, its opening's upper left corner at x, y, with a glass picture painted in 256 colours."""
        opening = self.pixels[self.y : self.y + self.h, self.x : self.x + self.w]
        levels = picture[self.rows, self.cols] * self.dim >> 4
        np.copyto(opening, paints[levels], where=self.glass)
        brush.paste(self.pixels, int(x + 0.5) - self.x, int(y + 0.5) - self.y)
