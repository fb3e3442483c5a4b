"""Drawn facades without the wedges of rectified photos, for tests that add their own or need none."""

from itertools import count, islice

import numpy as np

from maelib.facades import LABELS, draw_facade, draw_images


def unwedged_seeds(number: int, first: int = 0, size: int | tuple[int, int] = 64) -> list[int]:
    """The first `number` seeds from `first` on whose facades, of this aspect ratio, show no wedge."""
    void = LABELS.index("void")
    return list(islice((seed for seed in count(first) if not (draw_facade(seed, size).labels == void).any()), number))


def draw_unwedged(number: int, size: int, first: int = 0) -> np.ndarray:
    """Their pictures `(number, size, size, 3)` uint8."""
    return draw_images(unwedged_seeds(number, first), size)
