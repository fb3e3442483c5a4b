from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib.facades import draw_facade, draw_images
from maelib.masking import mask_to_pixels
from maelib.repair import photo as repairs
from maelib.repair.classical import BASELINES
from maelib.repair.photo import blend_seam, harmonic_fill, repair, repair_photo
from maelib.transfer.compare import random_weights
from maelib.weights.checkpoint import bundled_checkpoint, load_model

TINY = replace(tiny.TINY, patch_size=4)
MODEL = random_weights(TINY, 0)
model_alone = partial(repair_photo, detail=0)


class Painter(torch.nn.Module):
    """Stands in for a model that predicts one colour everywhere, and remembers what it was shown."""

    def __init__(self, colour: tuple[float, float, float]) -> None:
        super().__init__()
        self.colour = torch.nn.Parameter(torch.tensor(colour)[:, None, None])
        self.config, self.shown = TINY, []

    def reconstruct(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = mask_to_pixels(mask, 4, (images.shape[2] // 4, images.shape[3] // 4))[:, None]
        assert not mask.all(dim=1).any(), "a model cannot repair what shows nothing"
        self.shown.append(images[~hidden.expand_as(images)])
        return torch.where(hidden, self.colour, images)


def box_hole(height: int, width: int, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[top:bottom, left:right] = True
    return hole


# ---------------------------------------------------------------------------------------------- batches


def test_only_the_hole_of_a_batch_changes_and_nothing_leaks_from_it():
    images = torch.from_numpy(draw_images(range(3), 32)).permute(0, 3, 1, 2) / 255
    hole = torch.zeros(3, 32, 32, dtype=torch.bool)
    for i, side in enumerate((1, 7, 16)):
        hole[i, 3 : 3 + side, 5 : 5 + side] = True
    repaired = repair(images, hole, MODEL)
    outside = ~hole[:, None].expand_as(images)
    assert not repaired.requires_grad
    assert torch.equal(repaired[outside], images[outside])
    assert (repaired[~outside] != images[~outside]).float().mean() > 0.9
    assert torch.equal(repair(images.where(outside, 1 - images), hole, MODEL)[~outside], repaired[~outside])


# ---------------------------------------------------------------------------------------------- seams


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 0.98), st.integers(0, 999))
def test_a_harmonic_fill_continues_a_constant_and_stays_between_its_ends(height, width, share, seed):
    rng = np.random.default_rng(seed)
    known = torch.from_numpy(rng.random((height, width)) < share)
    known.view(-1)[rng.integers(height * width)] = True
    flat = harmonic_fill(torch.full((1, 2, height, width), 0.3), known[None])
    assert torch.allclose(flat, torch.tensor(0.3), atol=1e-6)
    values = torch.from_numpy(rng.random((1, height, width)).astype(np.float32))
    surface = harmonic_fill(values[None], known[None])[0]
    assert torch.equal(surface[:, known], values[:, known])
    assert values[:, known].min() - 1e-5 <= surface.min() <= surface.max() <= values[:, known].max() + 1e-5


def test_a_harmonic_fill_solves_the_laplace_equation():
    """A plane is harmonic, so what spans its frame is the plane itself."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij")
    plane = (0.01 * x - 0.02 * y)[None]
    known = torch.ones(40, 56, dtype=torch.bool)
    known[5:33, 9:50] = False
    spanned = harmonic_fill(torch.where(known, plane, 7.0)[None], known[None], sweeps=400)
    assert (spanned - plane).abs().max() < 0.01  # of a range of 1.3: sweeps are iterations, not a direct solution


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.3, 0.3), st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20))
def test_a_constant_error_leaves_no_seam(offset, top, left, height, width):
    photo = torch.from_numpy(draw_images([3], 32))[0].permute(2, 0, 1) / 255 * 0.4 + 0.3
    hole = torch.zeros(32, 32, dtype=torch.bool)
    hole[top : top + height, left : left + width] = True
    hole[0, 0] = False
    assert torch.allclose(blend_seam(photo[None], photo[None] + offset, hole[None]), photo, atol=1e-5)


# ---------------------------------------------------------------------------------------------- photos


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_only_the_hole_changes_at_any_size_and_nothing_leaks_from_it(data):
    height, width = data.draw(st.integers(2, 150)), data.draw(st.integers(2, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    hole = rng.random((height, width)) < data.draw(st.sampled_from([0.001, 0.3, 0.98]))
    if data.draw(st.booleans()):
        left, top = rng.integers(width), rng.integers(height)
        hole = box_hole(height, width, left, top, left + rng.integers(1, width), top + rng.integers(1, height))
    unknown = rng.random((height, width)) < data.draw(st.sampled_from([0, 0.2]))
    hole[0, 0], hole[-1, -1], unknown[0, 0] = False, True, False
    other = np.where((hole | unknown)[..., None], 255 - photo, photo)
    with pytest.MonkeyPatch.context() as patch:  # the whole at once, crops of it, or at a reduced size
        patch.setattr(repairs, "AT_ONCE", data.draw(st.sampled_from([24_000_000, 10_000, 1000])))
        repaired, again = (model_alone(image, hole, MODEL, unknown) for image in (photo, other))
    assert (repaired.shape, repaired.dtype) == (photo.shape, np.uint8)
    assert np.array_equal(repaired[~hole], photo[~hole])
    assert np.array_equal(repaired[hole], again[hole])


def test_the_first_pass_sees_the_photo_alone():
    painter = Painter((0.9, 0.1, 0.5))
    model_alone(np.full((200, 260, 3), 100, np.uint8), box_hole(200, 260, 30, 20, 230, 180), painter)
    assert all((shown - 100 / 255).abs().max() < 1e-5 for shown in painter.shown[:4])


def test_wires_before_every_patch_leave_their_neighbours_to_go_by():
    """A net that touches every patch at the model's scale is thin at the photo's own."""
    photo, net = draw_images([2], 128)[0], (np.indices((128, 128)) % 8 == 0).any(axis=0)
    error = np.abs(model_alone(photo, net, MODEL).astype(float) - photo)[net].mean()
    assert error < np.abs(photo[~net].mean(axis=0) - photo)[net].mean()


def test_scattered_holes_leave_the_model_the_patches_between_them():
    painter = Painter((0.5, 0.5, 0.5))
    hole = np.kron(np.random.default_rng(0).permutation(64).reshape(8, 8) < 48, np.ones((4, 4), bool))
    model_alone(np.full((32, 32, 3), 9, np.uint8), hole, painter)
    assert sum(len(shown) for shown in painter.shown) > 0


def test_finer_passes_help_on_large_photos_and_show_no_grid(monkeypatch):
    """A drawn facade of 512 px behind a net of wires and a box: the truth is known."""
    bundled = load_model(bundled_checkpoint())
    hole = box_hole(512, 512, 150, 210, 280, 350)
    for start in range(15, 512, 90):
        hole[start : start + 6], hole[:, start : start + 6] = True, True
    photo = draw_facade(900_000_003, 512).image
    fine = model_alone(photo, hole, bundled)
    monkeypatch.setattr(repairs, "AT_ONCE", 96**2)  # the scale of the model
    coarse = model_alone(photo, hole, bundled)
    error = [((repaired.astype(float) - photo)[hole] ** 2).mean() for repaired in (fine, coarse)]
    assert error[0] < 0.85 * error[1]
    steps = np.abs(np.diff(fine[210:350, 150:280].astype(float), axis=1)).mean(axis=(0, 2))
    period = bundled.config.patch_size
    phases = [steps[phase::period].mean() for phase in range(period)]
    assert max(phases) < 2 * np.median(phases)  # windows alone make it about 1.3


def test_a_grey_photo_gets_a_grey_repair():
    photo = np.repeat(draw_images([4], 48)[0][..., :1], 3, axis=2)
    repaired = model_alone(photo, box_hole(48, 48, 10, 10, 30, 30), MODEL)
    assert (repaired == repaired[..., :1]).all()


def test_classical_methods_repair_photos_too():
    photo, hole = draw_images([6], (60, 45))[0], box_hole(60, 45, 5, 5, 20, 20)
    images = torch.from_numpy(photo)[None].permute(0, 3, 1, 2) / 255
    filled = BASELINES["mirror"](images, torch.from_numpy(hole)[None])[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(filled - repair_photo(photo, hole, "mirror")).max() <= 0.5 + 1e-4


# ---------------------------------------------------------------------------------------------- large photos


def test_holes_of_a_large_photo_are_repaired_as_crops_around_them_are(monkeypatch):
    photo = draw_images([7], (600, 800))[0]
    hole = box_hole(600, 800, 70, 70, 120, 110) | box_hole(600, 800, 500, 400, 610, 500)
    monkeypatch.setattr(repairs, "AT_ONCE", 200_000)
    repaired = model_alone(photo, hole, MODEL)
    crop = np.s_[0:208, 0:208]  # the block of 64 px around the first hole, and 1.25 of it to each side
    assert np.array_equal(repaired[crop], model_alone(photo[crop], hole[crop], MODEL))
    far = photo.copy()
    far[250:, :300] = 0  # what is far from both holes does not matter
    assert np.array_equal(model_alone(far, hole, MODEL)[hole], repaired[hole])


def test_a_hole_too_large_to_repair_at_once_is_repaired_at_a_reduced_size(monkeypatch):
    monkeypatch.setattr(repairs, "AT_ONCE", 60_000)
    photo, box = draw_images([8], (301, 402))[0], box_hole(301, 402, 90, 60, 330, 240)
    inside = box_hole(301, 402, 93, 63, 327, 237)  # of whole blocks, without the photo's own pixels
    assert np.abs(model_alone(photo, box, "mean_fill")[inside] - photo[~box].mean(axis=0)).max() < 2


def test_crops_look_beyond_what_is_unknown(monkeypatch):
    """A hole amid transparent pixels is repaired from what is visible beyond them."""
    photo = np.full((400, 400, 3), 120, np.uint8)
    hole, unknown = box_hole(400, 400, 200, 200, 210, 210), box_hole(400, 400, 60, 60, 340, 340)
    monkeypatch.setattr(repairs, "AT_ONCE", 100_000)
    repaired = model_alone(np.where(unknown[..., None], np.uint8(0), photo), hole, Painter((0.5, 0.5, 0.5)), unknown)
    assert np.abs(repaired[hole].astype(int) - 120).max() <= 8
