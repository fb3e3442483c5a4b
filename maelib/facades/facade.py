"""Facades drawn from a seed: picture, label map, style, and occluders with the truth behind them. Numpy only.

A scene is drawn on a canvas finer than the picture (by `brush`, `windows`, `roof_and_ground`, `building` and `street`),
seen through a slightly misaligned camera, averaged down to the picture's size and finished with light, softness and
sensor noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from random import Random

import numpy as np

from maelib.facades.brush import LABELS, Brush, Label, masonry
from maelib.facades.brush import STYLES as _STYLES
from maelib.facades.street import WEIGHTS, draw_occluder, draw_scene, light

__all__ = ["LABELS", "STYLES", "Facade", "draw_facade", "draw_images", "draw_rgba"]

STYLES: tuple[str, ...] = tuple(_STYLES)
SMALLEST, LARGEST = 32, 1024
MOST_OCCLUDERS = 64  # where hardly any facade is within their reach, they never cover enough


@dataclass(frozen=True)
class Facade:
    """One drawn facade.

    Attributes
    ----------
    image : (H, W, 3) uint8, the picture without the occluders that were asked for.
    labels : (H, W) uint8, what `image` shows: positions in `LABELS`; "void" is border fill.
    style : one of `STYLES`.
    occluded : (H, W, 3) uint8, the picture with occluders in front; None unless asked for.
    occluder : (H, W) bool, where they are; everywhere else `occluded` equals `image`.
    """

    image: np.ndarray
    labels: np.ndarray
    style: str
    occluded: np.ndarray | None = None
    occluder: np.ndarray | None = None


def draw_facade(seed: int, size: int | tuple[int, int] = 224, *, occluders: bool = False) -> Facade:
    """Draw the facade that belongs to a seed.

    The same seed gives the same picture to the bit, and the same scene at every size of one aspect ratio.

    Parameters
    ----------
    seed : a whole number from 0.
    size : side in pixels, or (height, width); each from 32 to 1024.
    occluders : also draw trees, lamp posts, cars, scaffolding or signs in front, over at least 2% of the picture; in
        one several times as tall as wide they may cover less.

    Raises
    ------
    TypeError
        When seed or size is not made of whole numbers.
    ValueError
        When they are out of range.
    """
    seed, (height, width) = _check_seed(seed), _check_size(size)
    rng, noise, texture = Random(seed), _generator(2 * seed), _generator(2 * seed + 1)
    scale = max(2, min(4, 288 // max(height, width)))
    shape = (height * scale, width * scale)
    unit = min(shape[0], 2 * shape[1])
    style, sun, side = rng.choices(STYLES, WEIGHTS)[0], rng.random(), rng.choice((-1, 1))
    course = unit * (rng.uniform(0.006, 0.011) if style == "brick" else rng.uniform(0.02, 0.036))
    codes = masonry(shape, max(2, round(course)), texture)
    brush = Brush(np.empty(shape, np.uint32), unit, rng, side, 1.5 + 2 * sun, codes)
    draw_scene(brush, noise, style)
    view = _camera(rng, shape)
    planes, labels = _expose(brush.canvas, view, scale)
    finish = _Finish(rng, noise, texture, labels, sun)
    void = finish.void[0] > 0
    labels[void] = Label.VOID
    image = finish(planes)
    if not occluders:
        return Facade(image, labels, style)
    layer = Brush(np.zeros(shape, np.uint32), unit, Random(2 * seed + 1), side, 1.5 + 2 * sun, codes)
    for _ in range(MOST_OCCLUDERS):
        draw_occluder(layer, noise)
        clear = (layer.canvas == 0).ravel().take(view).reshape(height, scale, width, scale)
        cover = (1 - clear.mean((1, 3), dtype=np.float32)) * ~void
        if np.count_nonzero(cover) >= 0.03 * cover.size:
            break
    front, _ = _expose(layer.canvas, view, scale)
    occluded = np.where(cover[..., None] > 0, finish(planes * (1 - cover) + front), image)
    return Facade(image, labels, style, occluded, cover > 0)


def draw_images(seeds: Sequence[int], size: int | tuple[int, int] = 224) -> np.ndarray:
    """Draw only the pictures of several seeds: `(N, H, W, 3)` uint8. Raises what `draw_facade` raises."""
    images = np.empty((len(seeds), *_check_size(size), 3), np.uint8)
    for image, seed in zip(images, seeds, strict=True):
        image[...] = draw_facade(seed, size).image
    return images


def draw_rgba(seeds: Sequence[int], size: int | tuple[int, int] = 224) -> np.ndarray:
    """Draw pictures with an alpha channel: `(N, H, W, 4)` uint8, alpha 0 where rectification left no facade."""
    images = np.empty((len(seeds), *_check_size(size), 4), np.uint8)
    for image, seed in zip(images, seeds, strict=True):
        facade = draw_facade(seed, size)
        image[..., :3], image[..., 3] = facade.image, np.where(facade.labels == Label.VOID, 0, 255)
    return images


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def _check_seed(seed: int) -> int:
    try:
        seed = index(seed)
    except TypeError:
        raise TypeError(f"seed {seed!r} is not a whole number; use one from 0") from None
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; use one from 0")
    return seed


def _check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    try:
        sides = tuple(index(side) for side in sides)
    except TypeError:
        raise TypeError(f"size {size!r} is not a whole number or a pair of them; use 224 or (224, 160)") from None
    if len(sides) != 2:
        raise ValueError(f"size {size!r} has {len(sides)} numbers; use one side or (height, width)")
    for side in sides:
        if not SMALLEST <= side <= LARGEST:
            raise ValueError(
                f"size {size!r} is outside {SMALLEST} to {LARGEST} px; use {min(LARGEST, max(SMALLEST, side))}"
            )
    return sides


def _camera(rng: Random, shape: tuple[int, int]) -> np.ndarray:
    """Which canvas pixel each one seen comes from: slight rotation, shear and perspective; flat indices `(H, W)`."""
    height, width = shape
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    lean, turn, keystone, fan = (rng.gauss(0, 0.006) for _ in range(4))
    x = (u * (1 + keystone * v) + lean * v) * 0.95
    y = (v * (1 + fan * u) + turn * u) * 0.95
    rows = ((y.clip(-1, 1) + 1) * ((height - 1) / 2) + 0.5).astype(np.int32)
    rows *= width
    rows += ((x.clip(-1, 1) + 1) * ((width - 1) / 2) + 0.5).astype(np.int32)
    return rows


def _wedges(rng: Random, shape: tuple[int, int]) -> np.ndarray:
    """Share `(1, H, W)` of each pixel that lies outside the picture: in two of five, what rectification leaves empty.

    A photo straightened by a computer is no rectangle any more; each border of its frame is a line, here drawn by how
    far it has moved in at its two ends, one of which often touches the corner.
    """
    void = np.zeros((1, *shape), np.float32)
    if rng.random() < 0.6:
        return void
    for k in range(4):
        across, along = (shape[1], shape[0])[:: 1 if k % 2 else -1]
        ends = sorted((min(0.4, rng.expovariate(7.5)), min(0.1, rng.expovariate(40)) * (rng.random() < 0.4)))
        if rng.random() < (0.25 if k % 2 else 0.55):
            continue
        first, last = ends[:: rng.choice((-1, 1))]
        line = across * np.linspace(first, last, along, dtype=np.float32)[:, None]
        inside = (np.arange(across, dtype=np.float32) + 1 - line).clip(0, 1)  # (along, across)
        np.maximum(void[0], np.rot90(1 - inside, k + 1), out=void[0])
    return void


def _expose(canvas: np.ndarray, view: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Average `scale` x `scale` pixels of what is seen; returns planes `(3, H, W)` float32 in 0..255 and labels."""
    seen = canvas.ravel().take(view)
    height, width = seen.shape[0] // scale, seen.shape[1] // scale
    labels = (seen[scale // 2 :: scale, scale // 2 :: scale] >> 24).astype(np.uint8)
    # two channels add up in one number, 16 bits apart
    red_blue = (seen & 0xFF00FF).reshape(height, scale, -1).sum(1, dtype=np.uint32)
    green = ((seen >> 8) & 0xFF).reshape(height, scale, -1).sum(1, dtype=np.uint32)
    red_blue = sum(red_blue[:, k::scale] for k in range(scale))
    green = sum(green[:, k::scale] for k in range(scale))
    planes = np.empty((3, height, width), np.float32)
    planes[0], planes[1], planes[2] = red_blue & 0xFFFF, green, red_blue >> 16
    planes *= 1 / scale**2
    return planes, labels


class _Finish:
    """Light, exposure, softness and noise: drawn once, so that two pictures of a scene get the same ones."""

    def __init__(
        self, rng: Random, noise: np.random.Generator, texture: np.random.Generator, labels: np.ndarray, sun: float
    ):
        warm = rng.gauss(0, 0.025)
        gain = np.array([1 + warm, 1.0, 0.98 - warm], np.float32) * rng.uniform(0.84, 1.08)
        falling = np.where(labels == Label.SKY, np.float32(1), light(rng, noise, labels.shape, sun))
        self.light = falling * gain[:, None, None]
        self.saturation, self.contrast = rng.uniform(0.6, 1.25), rng.uniform(1.0, 1.45)
        self.blur = rng.uniform(0.0, 0.14) * min(1.0, min(labels.shape) / 224)
        self.noise = texture.standard_normal(labels.shape, dtype=np.float32) * rng.uniform(0.5, 4)
        self.void, self.blank = _wedges(rng, labels.shape), rng.choice((0, 0, 0, 128, 128))

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        planes = planes * self.light
        grey = planes.mean(0)
        planes = grey + (planes - grey) * self.saturation
        for one, next_, axis in ((np.s_[:, :-1], np.s_[:, 1:], 1), (np.s_[..., :-1], np.s_[..., 1:], 2)):
            flow = self.blur * np.diff(planes, axis=axis)
            planes[one] += flow
            planes[next_] -= flow
        planes = (planes - 118) * self.contrast + 118 + self.noise
        planes += (self.blank - planes) * self.void
        return np.ascontiguousarray(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
