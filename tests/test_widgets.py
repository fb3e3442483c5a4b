"""The widgets' state in Python; tests/notebooks/test_browser.py moves them in a real browser."""

import io

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from tiny import TINY

from maelib.course.widgets import Explorer, RepairPainter, to_png
from maelib.plots import show_images
from maelib.transfer.compare import random_weights

IMAGES = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))  # 4 x 6 patches of 8 px


MODEL = random_weights(TINY, 0)


def hidden(*places: int) -> list[bool]:
    return [i in places for i in range(24)]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_png_holds_the_pixels() -> None:
    np.testing.assert_allclose(pixels(to_png(IMAGES)) / 255, IMAGES[0].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)  # 8 bit


def test_the_repair_follows_the_mask() -> None:
    with pytest.raises(RuntimeError, match="16"):
        RepairPainter(IMAGES, MODEL, torch.zeros(1, 16, dtype=torch.bool))
    both = RepairPainter(IMAGES, MODEL, torch.tensor([hidden(3, 5)]))
    assert (both.painter.rows, both.painter.cols, both.painter.mask) == (4, 6, hidden(3, 5))
    assert repr(both).startswith("RepairPainter(4 x 6 patches): 2 of 24 patches hidden, PSNR")
    both.painter.mask = hidden()
    assert both.repaired.value == to_png(IMAGES)
    assert "Nothing is hidden" in both.caption.value
    both.painter.mask = hidden(0, 1)
    changed = (pixels(both.repaired.value) != pixels(to_png(IMAGES))).any(axis=2)
    assert changed[:8, :16].any()
    assert not changed[8:].any()
    assert not changed[:, 16:].any()
    assert "2 of 24 patches hidden" in both.caption.value
    both.painter.mask = [True] * 24
    assert "show at least one" in both.caption.value


def shade(level: float, inverted: bool) -> object:
    if level > 0.8:
        raise ValueError(f"level {level} is too bright; use 0.8 or less")
    return show_images([torch.full((1, 1, 8, 8), 1 - level if inverted else level)])


def test_an_explorer_draws_again_when_a_control_moves_and_says_what_cannot_be_drawn() -> None:
    explorer = Explorer(shade, level=(0.0, 1.0, 0.1), inverted=False)
    first = explorer.picture.value
    explorer.controls["inverted"].value = True
    explorer.controls["level"].value = 0.3
    second = explorer.picture.value
    assert pixels(second).shape == pixels(first).shape
    assert second != first
    assert DisplayFormatter().format(explorer)[0]["text/plain"] == "Explorer(level=0.3, inverted=True)"
    explorer.controls["level"].value = 0.9
    assert explorer.picture.value == second
    assert explorer.problem.value == "level 0.9 is too bright; use 0.8 or less"
    explorer.controls["level"].value = 0.2
    assert explorer.picture.value != second
    assert explorer.problem.value == ""


def test_a_control_may_have_any_name() -> None:
    assert repr(Explorer(lambda draw: shade(draw / 10, False), draw=(0, 8))) == "Explorer(draw=4)"
