"""The widgets' state in Python; tests/test_browser.py moves them in a real browser."""

import io

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from maelib.course.widgets import Explorer, PatchPainter, RepairPainter, to_png
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.plots import show_images


@pytest.fixture
def images() -> torch.Tensor:
    """`(1, 3, 32, 48)`: 4 x 6 patches of 8 px."""
    return torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    config = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_num_heads=2)
    return MaskedAutoencoder(config).eval()


def first_hidden(*hidden: int) -> list[bool]:
    return [i in hidden for i in range(24)]


def test_a_png_holds_the_pixels(images: torch.Tensor) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(to_png(images))))
    np.testing.assert_allclose(pixels / 255, images[0].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)  # 8 bits round


def test_a_painter_knows_its_grid_and_starts_with_the_mask_given(images: torch.Tensor) -> None:
    painter = PatchPainter(images, 8, torch.tensor([first_hidden(3, 5)]))
    assert (painter.rows, painter.cols) == (4, 6)
    assert painter.mask == first_hidden(3, 5)
    assert sum(PatchPainter(images, 8).mask) == 0


def test_a_mask_of_another_grid_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="mask has 16 entries for 4 x 6 patches; use 24"):
        PatchPainter(images, 8, torch.zeros(1, 16, dtype=torch.bool))


def test_on_change_hands_over_the_mask_as_the_model_takes_it(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    painter, seen = PatchPainter(images, 8), []
    painter.on_change(seen.append)
    painter.mask = first_hidden(7)
    (mask,) = seen
    assert mask.tolist() == [first_hidden(7)]
    model(images, mask)


def test_the_repair_follows_the_mask(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    both = RepairPainter(images, model)
    assert both.repaired.value == to_png(images)
    both.painter.mask = first_hidden(0, 1)
    repaired = np.asarray(Image.open(io.BytesIO(both.repaired.value)))
    truth = np.asarray(Image.open(io.BytesIO(to_png(images))))
    changed = (repaired != truth).any(axis=2)
    assert changed[:8, :16].any()
    assert not changed[8:].any()
    assert not changed[:, 16:].any()
    assert "2 of 24 patches hidden" in both.caption.value


def test_hiding_everything_asks_for_a_patch_to_see(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    both = RepairPainter(images, model)
    both.painter.mask = [True] * 24
    assert "show at least one" in both.caption.value
    both.painter.mask = first_hidden()
    assert "Nothing hidden" in both.caption.value


def test_the_text_form_is_the_same_in_every_run(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    for make in (lambda: PatchPainter(images, 8), lambda: RepairPainter(images, model)):
        one, other = (DisplayFormatter().format(make())[0]["text/plain"] for _ in range(2))
        assert one == other
        assert "4 x 6 patches" in one
        assert "0x" not in one


def shade(level: float, inverted: bool) -> object:
    if level > 0.8:
        raise ValueError(f"level {level} is too bright; use 0.8 or less")
    return show_images([torch.full((1, 1, 8, 8), 1 - level if inverted else level)])


def test_an_explorer_draws_anew_when_a_control_moves() -> None:
    explorer = Explorer(shade, level=(0.0, 1.0, 0.1), inverted=False)
    first = explorer.picture.value
    assert Image.open(io.BytesIO(first)).format == "PNG"
    explorer.controls["inverted"].value = True
    explorer.controls["level"].value = 0.3
    assert explorer.picture.value != first
    assert repr(explorer) == "Explorer(level=0.3, inverted=True)"
    assert DisplayFormatter().format(explorer)[0]["text/plain"] == repr(explorer)


def test_a_control_may_have_any_name() -> None:
    explorer = Explorer(lambda draw: shade(draw / 10, False), draw=(0, 8))
    assert repr(explorer) == "Explorer(draw=4)"


def test_an_explorer_keeps_its_picture_and_says_what_cannot_be_drawn() -> None:
    explorer = Explorer(shade, level=(0.0, 1.0, 0.1), inverted=False)
    first = explorer.picture.value
    explorer.controls["level"].value = 0.9
    assert explorer.picture.value == first
    assert explorer.problem.value == "level 0.9 is too bright; use 0.8 or less"
    explorer.controls["level"].value = 0.2
    assert explorer.picture.value != first
    assert explorer.problem.value == ""
